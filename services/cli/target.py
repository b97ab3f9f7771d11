"""Which crew a command speaks to: named on the command line or in the environment, by a context of the
nats CLI, or the one that runs on the state directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from contracts.errors import InvalidMessage
from contracts.topology import INBOX, Topology
from services.cli.failures import NoCrew, Usage
from services.cli.settings import Environment
from services.kit.crew import Crew, running_crew
from services.kit.identity.claims import jwt_of_creds, read
from services.kit.state import StateDirectory

OPERATOR = "operator"
SCHEMES = ("nats", "tls", "ws", "wss")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A crew, and how to reach its bus."""

    url: str
    creds: Path | None
    inbox_prefix: str
    topology: Topology
    source: Literal["options", "context", "crew"]
    crew: Crew | None = None
    """Where it runs on this state directory."""


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """A context file of the nats CLI, as far as it is used here."""

    description: str = ""
    url: str = ""
    creds: str = ""
    inbox_prefix: str = ""


def named_target(
    environment: Environment, *, url: str | None, creds: Path | None, context: str | None
) -> Target | None:
    """The crew that options or the environment name; None when they name none.

    Options go before the environment, and a URL before a context.

    Raises:
        Usage: they contradict each other, or name something that is not there.
    """
    if url and context:
        raise Usage("--url and --context both name a crew: give one of them")
    if creds and not url and not environment.url:
        raise Usage("--creds goes with --url: where is the server?")
    topology = Topology(environment.prefix)
    if context is None and (address := url or environment.url):
        file = creds or environment.creds
        return Target(
            url=_checked(address), creds=file, inbox_prefix=inbox_of(file), topology=topology,
            source="options",
        )  # fmt: skip
    if name := context or environment.context:
        return _of_context(environment, name, topology)
    return None


def local_target(environment: Environment) -> Target | None:
    """The crew that runs on the state directory."""
    root = environment.state_dir
    if not root.is_dir():
        return None
    state = StateDirectory(root)
    crew = running_crew(state)
    return None if crew is None else target_of(environment, state, crew)


def target_of(environment: Environment, state: StateDirectory, crew: Crew) -> Target:
    """A crew of this state directory, to be spoken to as its operator."""
    return Target(
        url=crew.url, creds=state.creds(OPERATOR), inbox_prefix=f"{INBOX}.ops.{OPERATOR}",
        topology=Topology(environment.prefix), source="crew", crew=crew,
    )  # fmt: skip


def find_target(
    environment: Environment, *, url: str | None, creds: Path | None, context: str | None
) -> Target:
    """The crew to speak to.

    Raises:
        NoCrew: none is named and none runs here.
        Usage: see `named_target`.
    """
    found = named_target(environment, url=url, creds=creds, context=context)
    found = found or local_target(environment)
    if found is None:
        raise NoCrew(
            f"no crew runs on {environment.state_dir}: start one with `jetcrew up`, "
            "or name one with --url and --creds"
        )
    return found


def inbox_of(creds: Path | None) -> str:
    """Where answers to the holder of this credentials file arrive.

    Raises:
        Usage: it is no credentials file.
    """
    if creds is None:
        return INBOX
    try:
        name = read(jwt_of_creds(creds.read_text()))["name"]
    except OSError as error:
        raise Usage(f"cannot read {creds}: {error.strerror}") from None
    except (ValueError, KeyError, UnicodeDecodeError):
        raise Usage(f"{creds} is no NATS credentials file") from None
    return f"{INBOX}.ops.{name}"


def read_context(path: Path) -> Context:
    """A context file.

    Raises:
        Usage: it is not there, or damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Context)
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise Usage(f"there is no context {path.stem!r}; known: {names}") from None
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise Usage(f"{path} is damaged: {error}") from None


def _of_context(environment: Environment, name: str, topology: Topology) -> Target:
    if "/" in name or name.startswith("."):
        raise Usage(f"{name!r} is no name of a context")
    path = environment.nats_config / "context" / f"{name}.json"
    context = read_context(path)
    if not context.url:
        raise Usage(f"{path} names no server")
    creds = Path(context.creds).expanduser() if context.creds else None
    return Target(
        url=_checked(context.url), creds=creds,
        inbox_prefix=context.inbox_prefix or inbox_of(creds), topology=topology, source="context",
    )  # fmt: skip


def _checked(url: str) -> str:
    """With a scheme: `host:4222` is what people write."""
    parts = [part if "://" in part else f"nats://{part}" for part in url.split(",") if part]
    if not parts or not all(_is_address(part) for part in parts):
        known = ", ".join(SCHEMES)
        raise InvalidMessage(
            f"{url!r} is no address of a NATS server, as in nats://host:4222 ({known})",
            field="--url",
        )
    return ",".join(parts)


def _is_address(url: str) -> bool:
    if any(c.isspace() for c in url):
        return False
    try:
        parsed = urlsplit(url)
        return parsed.scheme in SCHEMES and bool(parsed.hostname) and parsed.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False
