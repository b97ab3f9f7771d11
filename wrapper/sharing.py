"""The conversation of a shared session around one turn: laid down before it, handed over after it."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import structlog

from contracts.asks import Assignment
from contracts.errors import JetcrewError
from contracts.events import ConversationLeft
from contracts.session import is_portable
from contracts.topology import CONVERSATION, HANDED_OVER
from wrapper.boot import Place
from wrapper.conversations import NoFiles, TooMuch, Unsafe, files_of, pack, unpack
from wrapper.usage import Totals
from wrapper.workspace import Carrying

log = structlog.get_logger(__name__)


class Sharing:
    """Of one run. Does nothing when the session is the worker's own."""

    def __init__(self, place: Place, work: Assignment, run: str, parcels: Carrying) -> None:
        self._place = place
        self._work = work
        self._run = run
        self._parcels = parcels
        self._limit = HANDED_OVER[CONVERSATION]

    async def lay(self) -> str:
        """Lay down what the session holds, so that the agent can go on with it; why that is lost, empty when it is
        not. Takes as long as the bus is away."""
        shared = self._work.shared
        if shared is None or not shared.stored:
            return shared.lost if shared else ""
        session = self._work.agent_session or ""
        try:
            with self._archive() as archive:
                await self._parcels.fetch(CONVERSATION, archive, limit=self._limit)
                patterns = self._patterns(session)
                await asyncio.to_thread(unpack, archive, self._state(), patterns, limit=self._limit)
        except (JetcrewError, OSError) as error:
            log.warning("conversation.not_laid", error=str(error))
            return str(error)
        if shared.counted is not None:
            Totals(Path(self._place.boot.home)).keep(session, shared.counted)
        return ""

    async def keep(self, session: str | None, patience: float) -> ConversationLeft | None:
        """Hand over the conversation as the agent has left it, within `patience` seconds; None when there is
        nothing to hand over."""
        if self._work.shared is None or session is None:
            return None
        try:
            async with asyncio.timeout(patience):
                return await self._handed_over(session)
        except NoFiles as error:
            return ConversationLeft(reason="no-files", detail=str(error))
        except TooMuch as error:
            return ConversationLeft(
                reason="too-large", size_bytes=error.size_bytes, detail=str(error)
            )
        except TimeoutError:
            why = f"it could not be handed over within {patience:.0f} s"
        except (JetcrewError, OSError) as error:
            why = str(error)
        log.warning("conversation.not_kept", error=why)
        return ConversationLeft(reason="not-taken", detail=self._place.secrets.redact(why))

    async def _handed_over(self, session: str) -> ConversationLeft:
        work, patterns = self._work, self._patterns(session)
        with self._archive() as archive:
            size = await asyncio.to_thread(
                pack, self._state(), patterns, archive,
                limit=self._limit, redact=self._place.secrets.redact,
            )  # fmt: skip
            await self._parcels.hand_over(
                archive, CONVERSATION, task=work.task, attempt=work.attempt, run=self._run
            )
        counted = Totals(Path(self._place.boot.home)).of(session)
        return ConversationLeft(reason="kept", size_bytes=size, counted=counted)

    def _patterns(self, session: str) -> list[str]:
        if not is_portable(session):
            raise Unsafe(f"{session[:60]!r} cannot be the id of a conversation that travels")
        return files_of(self._place.agent, session)

    def _state(self) -> Path:
        return Path(self._place.values().fill(self._place.agent.state_dir or "{home}"))

    @contextlib.contextmanager
    def _archive(self) -> Iterator[Path]:
        file = self._place.own_folder() / "conversation.tar"
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
