"""Context files of the stock nats CLI."""

import contextlib
import os
from pathlib import Path
from typing import Any

import click
import msgspec

from services.cli.failures import NoCrew, Usage
from services.cli.session import print_json
from services.cli.settings import Environment
from services.cli.target import Context, Target, local_target, named_target, target_of
from services.kit.crew import Crew
from services.kit.state import StateDirectory

MINE = "jetcrew"
"""How the descriptions of contexts begin that this program wrote."""


def save_context(options: dict[str, Any]) -> None:
    """Write a context file, and select it where none is selected.

    Raises:
        Usage: the name is no file's name, or somebody else's context has it.
        NoCrew: there is no crew to point at.
    """
    environment = Environment.read()
    name = options["name"]
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise Usage(f"{name!r} is no name of a context: letters, digits, dashes")
    target = _target(environment, options)
    path = environment.nats_config / "context" / f"{name}.json"
    wanted = Context(
        description=f"{MINE}: {environment.state_dir}" if target.source == "crew" else MINE,
        url=target.url, creds=str(target.creds.absolute()) if target.creds else "",
        inbox_prefix=target.inbox_prefix,
    )  # fmt: skip
    _check_replaced(path, wanted, force=options["force"])
    _write(path, msgspec.json.format(msgspec.json.encode(wanted), indent=2))
    selected = _select(environment.nats_config / "context.txt", name, options)
    if options["as_json"]:
        print_json({"path": str(path), "context": name, "url": target.url, "selected": selected})
        return
    click.echo(f"context {name}: {path}")
    if selected:
        click.echo("it is selected: nats sub 'jetcrew.evt.>'")
    else:
        click.echo(f"use it: nats --context {name} sub 'jetcrew.evt.>'")


def _target(environment: Environment, options: dict[str, Any]) -> Target:
    found = named_target(
        environment, url=options["url"], creds=options["creds"], context=options["context"]
    )
    found = found or local_target(environment) or _of_last_time(environment)
    if found is None:
        raise NoCrew(f"no crew ever ran on {environment.state_dir}: start one with `jetcrew up`")
    return found


def _of_last_time(environment: Environment) -> Target | None:
    state = StateDirectory(environment.state_dir)
    try:
        port = msgspec.json.decode((state.nats / "ports.json").read_bytes())["client"]
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return None
    from datetime import UTC, datetime

    crew = Crew(url=f"nats://127.0.0.1:{port}", pid=0, started=0, since=datetime.now(UTC))
    return target_of(environment, state, crew)


def _check_replaced(path: Path, wanted: Context, *, force: bool) -> None:
    if force or not path.exists():
        return
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        there = msgspec.json.decode(path.read_bytes(), type=Context)
        if there.description.startswith(MINE) or there.url == wanted.url:
            return
    raise Usage(f"{path} is a context of another kind: choose another name, or --force")


def _select(path: Path, name: str, options: dict[str, Any]) -> bool:
    """Whether it is selected now. What is selected stays so unless asked otherwise."""
    selected = ""
    with contextlib.suppress(OSError):
        selected = path.read_text().strip()
    if selected == name:
        return True
    if options["no_select"] or (selected and not options["select"]):
        return False
    _write(path, name.encode())
    return True


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        part.replace(path)
    except OSError as error:
        raise Usage(f"cannot write {path}: {error.strerror}") from None
