"""The workspace around one run: a repository laid into it, configuration set aside, work gathered."""

import asyncio
from typing import Protocol

import structlog

from contracts.asks import Assignment
from contracts.errors import JetcrewError
from contracts.repository import RepositorySource, Work
from wrapper.boot import Place
from wrapper.checkout import Checkout, Fetching, laid
from wrapper.family import Family
from wrapper.git import Git, GitFailed, in_workspace
from wrapper.output import Noted
from wrapper.quarantine import Quarantine
from wrapper.tree import tree_of
from wrapper.work import Gathering, HandingOver

log = structlog.get_logger(__name__)


class Carrying(Fetching, HandingOver, Protocol):
    """What comes into the worker and goes out of it."""


class Unfit(JetcrewError):
    """The workspace is not as the agent has to find it."""


class Workspace:
    """Prepared before the agent starts, and settled after its end."""

    def __init__(self, place: Place, family: Family, run: str, parcels: Carrying) -> None:
        self._place = place
        self._run = run
        self._parcels = parcels
        self._git = in_workspace(place, family, run)
        self._quarantine = Quarantine(place, self._git)
        self._base: str | None = None
        self._begun: str | None = None
        self.head: str | None = None
        """What was checked out when the agent started."""

    @property
    def _is_repository(self) -> bool:
        return (self._place.workspace / ".git").exists()

    async def lay(self, source: RepositorySource, why: str) -> None:
        """Lay a repository into it.

        Raises:
            NotLaid: it cannot be done.
        """
        await Checkout(self._place, self._git, self._parcels).lay(source, why)

    async def begin(self, work: Assignment) -> list[Noted]:
        """Make it fit for the agent; what is worth telling of that.

        Raises:
            Unfit: it cannot be done; the agent must not start.
        """
        notes: list[Noted] = []
        try:
            await self._quarantine.put_back()  # left by a run that was killed
            if work.repository is not None:
                await self.lay(work.repository, work.task)
            await self._remember(work)
            if not self._place.boot.trust_repository:
                aside = await self._quarantine.set_aside()
                if aside:
                    log.info("repository.quarantined", paths=aside)
                    notes.append(
                        Noted("status", f"set aside while the agent runs: {', '.join(aside)}")
                    )
        except (JetcrewError, OSError) as error:
            raise Unfit(str(error)) from None
        return notes

    async def _remember(self, work: Assignment) -> None:
        """What the work is to be compared with."""
        if not self._is_repository:
            return
        self.head = await self._git.line("rev-parse", "-q", "--verify", "HEAD^{commit}")
        if self.head is None:
            return
        given = laid(self._place)
        self._base = given.base if given else self.head
        if given and work.repository is not None:
            self._begun = given.begun
            return
        try:
            self._begun = await tree_of(self._git, self._place.own_folder())
        except (GitFailed, OSError) as error:
            log.warning("workspace.unreadable", error=str(error))

    async def end(self, work: Assignment, patience: float) -> Work | None:
        """Put back what was set aside, and hand over what the run left; None when there is no repository
        that the run began with. Takes `patience` seconds at most."""
        try:
            async with asyncio.timeout(patience):
                await self._quarantine.put_back()
                return await self._gather(work)
        except TimeoutError:
            why = f"it could not be gathered within {patience:.0f} s"
        except (JetcrewError, OSError) as error:
            why = str(error)
        log.warning("workspace.unsettled", error=why)
        if self._base is None:
            return None
        return Work(base=self._base, tip=self._base, lost=why)

    async def _gather(self, work: Assignment) -> Work | None:
        if self._base is None or self._begun is None or not self._is_repository:
            return None
        return await Gathering(
            place=self._place, git=self._git, parcels=self._parcels, work=work, run=self._run,
            base=self._base, begun=self._begun,
        ).gather()  # fmt: skip

    def asking(self, env: dict[str, str]) -> Git:
        """git with the agent's own variables, and thus what it may reach."""
        git = self._git
        return Git(directory=git.directory, env=env, family=git.family, run=git.run)
