"""The process inside a worker: `python -I -m wrapper --boot DIR [--boot-socket PATH]`.

Exit codes: 0 drained · 1 a bug · 2 wrong or missing boot files · 3 the agent is not there ·
4 no bus, or the bus refused the credential.
"""

import wrapper.lean  # noqa: F401  # before what it spares

# isort: split
import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import structlog

from contracts.agent import Agent
from contracts.bus import Bus, connect
from contracts.errors import BusClosed, BusUnavailable, ConfigurationInvalid, Denied
from contracts.ids import nonce
from contracts.log import configure
from contracts.topology import INBOX, Topology
from wrapper.agent import Values, load_agent
from wrapper.boot import Place, prepare, read_boot
from wrapper.control import obey
from wrapper.credential import keep_valid
from wrapper.family import Family, adopt_orphans
from wrapper.handover import FIT, TAKEN, handover, write_down
from wrapper.heartbeat import beat
from wrapper.link import reachable
from wrapper.output import adapter_for
from wrapper.parcels import Parcels
from wrapper.preflight import AgentMissing, preflight
from wrapper.report import Reports
from wrapper.state import State

log = structlog.get_logger(__name__)

Checking = asyncio.Task[str | AgentMissing | None]

DRAINED, BUG, NOT_CONFIGURED, NOT_READY, NO_BUS = 0, 1, 2, 3, 4


def main() -> int:
    """Run a worker to its end; the exit code says which."""
    parser = argparse.ArgumentParser(prog="wrapper", description="The process inside a worker.")
    parser.add_argument("--boot", required=True, type=Path, metavar="DIR")
    parser.add_argument("--boot-socket", type=Path, metavar="PATH")
    options = parser.parse_args()
    configure(json=True, process="wrapper")
    family = Family(adopting=adopt_orphans())
    try:
        return asyncio.run(_live(options.boot, options.boot_socket, family))
    except (ConfigurationInvalid, BusClosed, BusUnavailable, Denied, BaseExceptionGroup) as error:
        cause = _cause(error)
        code = _code(cause)
        log.log(
            logging.ERROR,
            "worker.failed",
            kind=type(cause).__name__,
            error=str(cause),
            exc_info=code == BUG,
        )
        return code


def _cause(error: BaseException) -> BaseException:
    """The first of the errors that a TaskGroup collected."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _code(error: BaseException) -> int:
    if isinstance(error, ConfigurationInvalid):
        return NOT_CONFIGURED
    return NO_BUS if isinstance(error, BusClosed | BusUnavailable | Denied) else BUG


async def _live(directory: Path, socket: Path | None, family: Family) -> int:
    state = State()
    boot = nonce()
    async with asyncio.TaskGroup() as group:
        checking = await _handed_over(group, directory, socket, family, boot) if socket else None
        place = await read_boot(directory)
        adapter_for(place.agent)  # a format that nobody reads is better noticed now
        structlog.contextvars.bind_contextvars(worker=place.boot.worker)
        prepare(place)
        if checking is None:
            check = _checked(place.agent, place.values(), place.boot.path, family, boot)
            checking = group.create_task(check, name="preflight")
        async with _bus(place) as bus:
            reports = Reports(bus, place.boot.worker, place.boot.incarnation, boot)
            checked = await checking
            if isinstance(checked, AgentMissing):
                log.error("agent.missing", error=str(checked))
                await reports.not_ready(str(checked))
                return NOT_READY
            if (why := await _laid(bus, place, family, boot)) is not None:
                log.error("repository.missing", error=why)
                await reports.not_ready(why)
                return NOT_READY
            await _serve(bus, place, reports, state, family, agent_version=checked)
    return DRAINED


async def _handed_over(
    group: asyncio.TaskGroup, directory: Path, socket: Path, family: Family, boot: str
) -> Checking | None:
    """Have the boot files written down once they come, and check the agent before there is a worker for it;
    None when they came in another way."""
    async with handover(socket, directory) as told:
        if told is None:
            return None
        berth = told.berth
        agent = load_agent(Path(berth.agent_file))
        values = Values(workspace=berth.workspace, home=berth.home)
        check = _checked(agent, values, berth.path, family, boot)
        checking = group.create_task(check, name="preflight")
        checking.add_done_callback(lambda task: told.say(_fitness(task)))
        write_down(await told.files(), directory)
        told.say(TAKEN)
    return checking


def _fitness(checking: Checking) -> str:
    if checking.cancelled() or checking.exception() is not None:
        return "unfit"
    return "unfit" if isinstance(checking.result(), AgentMissing) else FIT


async def _checked(
    agent: Agent, values: Values, path: str, family: Family, boot: str
) -> str | AgentMissing | None:
    try:
        return await preflight(agent, values, path=path, family=family, run=boot)
    except AgentMissing as error:
        return error


async def _laid(bus: Bus, place: Place, family: Family, boot: str) -> str | None:
    """Lay the worker's repository into its workspace; why that could not be done."""
    source = place.boot.repository
    if source is None:
        return None
    from wrapper.checkout import NotLaid  # few workers have a repository
    from wrapper.workspace import Workspace

    try:
        await Workspace(place, family, boot, Parcels(bus, place.boot.worker)).lay(source, "worker")
    except NotLaid as error:
        return place.secrets.redact(str(error))
    return None


@contextlib.asynccontextmanager
async def _bus(place: Place) -> AsyncIterator[Bus]:
    boot = place.boot
    async with (
        reachable(boot.bus) as url,
        connect(
            url,
            name=f"jetcrew-worker-{boot.worker}",
            creds=place.creds,
            inbox_prefix=f"{INBOX}.{boot.worker}",
            topology=Topology(boot.prefix),
            patience=boot.bus_grace,
        ) as bus,
    ):
        yield bus


async def _serve(
    bus: Bus, place: Place, reports: Reports, state: State, family: Family, *, agent_version: str | None
) -> None:  # fmt: skip
    """Work until the worker drains or one of its tasks fails."""
    boot = place.boot
    listening = asyncio.Event()
    beating = beat(reports, state, family, every=boot.heartbeat_every, bus_grace=boot.bus_grace)
    async with asyncio.TaskGroup() as group:
        others = [
            group.create_task(obey(bus, place, state, listening), name="control"),
            group.create_task(beating, name="heartbeat"),
            group.create_task(keep_valid(bus, place, reports.boot, state.cover), name="credential"),
            group.create_task(_closed(bus), name="closed"),
        ]
        with _sigterm_drains(state, grace=boot.drain_grace):
            await listening.wait()
            await reports.ready(agent_version)
            log.info("worker.ready", agent=place.agent.name, agent_version=agent_version)
            # A third of all code, of which nothing is needed before a worker is ready.
            from wrapper.assignments import Assignments

            await Assignments(bus, place, reports=reports, state=state, family=family).work()
        await _end(others)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until it is heeded: before Python 3.12 a request that is answered in the same moment
    swallows its cancellation."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)


async def _closed(bus: Bus) -> None:
    await bus.closed.wait()
    raise BusClosed("the connection to the bus is gone for good")


@contextlib.contextmanager
def _sigterm_drains(state: State, *, grace: float) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        log.info("worker.draining")
        state.draining.set()
        loop.call_later(grace, cancel)

    def cancel() -> None:
        if state.current is not None:
            state.current.stop.want("cancelled", "drained", "The worker was stopped.")

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


if __name__ == "__main__":
    sys.exit(main())
