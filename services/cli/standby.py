"""The crew behind `jetcrew run`: one that runs already, or our own for as long as the prompt takes.

Several runs may share a state directory. The first one hosts the crew; when it ends, one of the others
takes over on the same port, and the workers, which outlive a manager, do not notice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.cli.children import Tell
from services.cli.failures import CrewFailed, DirectoryInUse, Interrupted
from services.cli.hosting import Hosted, Wanted, hosted
from services.cli.settings import Environment
from services.cli.signals import Interrupts
from services.cli.target import Target, target_of
from services.kit.crew import Crew, announce, running_crew, withdraw
from services.kit.state import StateDirectory

LOOK_EVERY = 0.25  # seconds
PATIENCE = 60.0
"""Seconds in which a crew has to be there."""


class Standby:
    """Sees to it that a crew runs on the state directory."""

    def __init__(
        self, environment: Environment, state: StateDirectory, wanted: Wanted, tell: Tell
    ) -> None:
        self._environment = environment
        self._state = state
        self._wanted = wanted
        self._tell = tell
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._why: CrewFailed | None = None
        self._hosted: Hosted | None = None

    @property
    def hosting(self) -> bool:
        """Whether the crew is ours."""
        return self._hosted is not None

    def given_up(self) -> CrewFailed | None:
        """The error, once there is no hope that the crew comes back."""
        return None if self._hosted is None else self._hosted.given_up()

    def prove(self) -> None:
        """The crew works: hope is not given up from now on."""
        if self._hosted is not None:
            self._hosted.proven = True

    async def keep_up(self) -> None:
        """Host the crew whenever nobody else does, until `stop`."""
        while not self._stop.is_set():
            if running_crew(self._state) is None:
                await self._host()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._stop.wait()

    async def target(self, interrupts: Interrupts) -> Target:
        """The crew, once its server takes connections.

        Raises:
            CrewFailed: there is none in time.
        """
        give_up = asyncio.get_running_loop().time() + PATIENCE
        while True:
            if (crew := self._there()) is not None:
                return target_of(self._environment, self._state, crew)
            if interrupts.asked.is_set():
                raise Interrupted("interrupted")
            if asyncio.get_running_loop().time() > give_up or self._hopeless():
                raise self._why or CrewFailed("no crew came up")
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Host no longer."""
        self._stop.set()

    async def _host(self) -> None:
        try:
            async with hosted(self._environment, self._state, self._wanted, self._tell) as crew:
                announce(self._state, url=crew.url, kind="run")
                self._hosted = crew
                try:
                    await self._stop.wait()
                finally:
                    self._hosted = None
                    withdraw(self._state)
        except CrewFailed as error:
            self._why = error

    def _there(self) -> Crew | None:
        return running_crew(self._state)

    def _hopeless(self) -> bool:
        """Whether the failure is one that waiting does not mend: not that another run holds the directory."""
        return self._why is not None and not isinstance(self._why, DirectoryInUse)


@contextlib.asynccontextmanager
async def crew_at_hand(
    environment: Environment, state: StateDirectory, wanted: Wanted, tell: Tell
) -> AsyncIterator[Standby]:
    """A standby for as long as the block lasts; its crew, if it hosts one, is stopped at the end."""
    standby = Standby(environment, state, wanted, tell)
    async with asyncio.TaskGroup() as group:
        group.create_task(standby.keep_up(), name="standby")
        try:
            yield standby
        finally:
            standby.stop()
