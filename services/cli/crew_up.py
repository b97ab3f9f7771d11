"""A crew that stays: what `jetcrew up` and `jetcrew down` do."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import sys

import msgspec

from contracts.errors import NotThere
from services.cli.failures import CrewFailed, NoCrew, Usage
from services.cli.hosting import Hosted, Wanted, hosted
from services.cli.link import linked, quiet, status_of
from services.cli.screen import Screen
from services.cli.settings import Environment
from services.cli.signals import Interrupts, heeded
from services.cli.target import target_of
from services.kit.crew import Crew, announce, running_crew, withdraw
from services.kit.state import StateDirectory

READY_PATIENCE = 120.0
"""Seconds for the manager to answer for the first time."""
DOWN_PATIENCE = 60.0
"""Seconds for a crew to end."""
NOBODY = "nobody-by-this-name"


async def bring_up(environment: Environment, wanted: Wanted, *, as_json: bool) -> int:
    """Run a crew until a signal; 0 after an orderly end.

    Raises:
        CrewFailed: one runs already, or a process of it cannot be kept up.
        Usage: the API would be open to other hosts without a token.
    """
    _check_host(environment, wanted)
    state = StateDirectory.at(environment.state_dir)
    if crew := running_crew(state):
        raise CrewFailed(_in_use(state, crew))
    quiet()
    screen = Screen(document=True)
    with heeded() as interrupts:
        screen.doing("starting the crew")
        async with hosted(environment, state, wanted, screen.phase) as crew_processes:
            announced = await _ready(environment, state, crew_processes, interrupts)
            if announced is not None:
                _say(screen, state, announced, as_json=as_json)
                try:
                    await interrupts.asked.wait()
                finally:
                    withdraw(state)
            screen.doing("stopping the crew")
        screen.idle()
        screen.phase("the crew has ended")
    return 0


async def take_down(environment: Environment) -> int:
    """End the crew on the state directory; the number of its first process.

    Raises:
        NoCrew: none runs.
        CrewFailed: it does not end.
    """
    root = environment.state_dir
    crew = running_crew(StateDirectory(root))
    if crew is None:
        raise NoCrew(f"no crew runs on {root}")
    if crew.kind == "run":
        raise NoCrew(
            f"what runs on {root} is a `jetcrew run` (process {crew.pid}); it ends by itself"
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(crew.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(DOWN_PATIENCE):
            while crew.alive:  # noqa: ASYNC110  # another process tells nobody of its end
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise CrewFailed(f"process {crew.pid} has not ended after {DOWN_PATIENCE:.0f} s") from None
    return crew.pid


def _in_use(state: StateDirectory, crew: Crew) -> str:
    if crew.kind == "run":
        return (
            f"a `jetcrew run` (process {crew.pid}) works on {state.root}: "
            "wait for its end, or set JETCREW_STATE_DIR to another directory"
        )
    return (
        f"a crew runs on {state.root} already (process {crew.pid}, {crew.url}): use that one, "
        "stop it (jetcrew down), or set JETCREW_STATE_DIR to another directory"
    )


def _check_host(environment: Environment, wanted: Wanted) -> None:
    if environment.has_api_token or wanted.http_host == "localhost":
        return
    try:
        local = ipaddress.ip_address(wanted.http_host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise Usage(
            f"--http-host {wanted.http_host} lets other hosts in: set JETCREW_API__TOKEN, "
            "which every request then has to bring"
        )


async def _ready(
    environment: Environment, state: StateDirectory, crew: Hosted, interrupts: Interrupts
) -> Crew | None:
    """Wait for manager and API, and tell of the crew; None when a signal came first."""
    target = target_of(environment, state, _provisional(crew))
    give_up = asyncio.get_running_loop().time() + READY_PATIENCE
    async with linked(target, patience=30) as bus:
        while not interrupts.asked.is_set():
            try:
                await status_of(bus, NOBODY, wait=1, budget=0)
            except NotThere:
                http_url = await crew.http_url() if crew.api else None
                crew.proven = True
                return announce(state, url=crew.url, http_url=http_url)
            except CrewFailed as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise CrewFailed(f"{error}; {crew.manager.last_words(1)}") from None
            if failed := crew.given_up():
                raise failed
            await asyncio.sleep(0.05)
    return None


def _provisional(crew: Hosted) -> Crew:
    from datetime import UTC, datetime

    return Crew(url=crew.url, pid=os.getpid(), started=0, since=datetime.now(UTC))


def _say(screen: Screen, state: StateDirectory, crew: Crew, *, as_json: bool) -> None:
    screen.idle()
    if as_json:
        told = {
            "url": crew.url,
            "http_url": crew.http_url,
            "pid": crew.pid,
            "state_dir": str(state.root),
        }
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        sys.stdout.flush()
        return
    screen.phase(f"the crew is up: {crew.url}" + (f" · {crew.http_url}" if crew.http_url else ""))
    screen.phase(f"state directory: {state.root} · Ctrl-C stops it")
