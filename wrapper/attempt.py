"""One attempt at a task: a turn of the agent, where needed a second one, and the report of its end."""

import asyncio
import time
from pathlib import Path
from typing import Protocol

import structlog
from msgspec.structs import replace

from contracts.asks import Assignment
from contracts.budget import overrun, spent_in
from contracts.events import ConversationLeft, TaskEnd, Usage, Verdict
from contracts.reports import Finished, Output
from contracts.repository import GitState, Work
from wrapper.answer import AnswerFormat
from wrapper.boot import Place
from wrapper.claims import Claims
from wrapper.ending import Ending, broke, cut_short, judged
from wrapper.family import Family
from wrapper.outlet import Outlet
from wrapper.output import Adapter, Noted, adapter_for
from wrapper.output.reading import added
from wrapper.process import NotStarted, StreamName
from wrapper.session import Conversation, conversation, fresh, is_lost
from wrapper.sharing import Sharing
from wrapper.turn import Command, Ran, Stop, signal_of, take_turn
from wrapper.usage import Totals
from wrapper.verdict import VerdictProblem, clean
from wrapper.workspace import Carrying, Unfit, Workspace

log = structlog.get_logger(__name__)

TEXT = 65_536
"""Bytes of the final text in the report; of a longer one the end is kept."""
REPAIR_NEEDS = 10.0
"""Seconds before the deadline below which asking again is not worth it."""
SETTLING = 120.0
"""Seconds that the work of a run may take to be gathered and handed over."""
SETTLING_EARLY = 8.0
"""The same after a cancel or the deadline: the manager waits for the end, and kills the worker if none comes."""
SETTLING_DRAINED = 1.5
"""The same when the worker was told to end."""
LAST_OUTPUT = 30.0
"""Seconds that output may still take to get out once the agent is gone."""


class Telling(Protocol):
    """Who passes on what an attempt has to tell."""

    def note(self, note: Noted) -> None:
        """Something worth telling happened."""

    def session(self, agent_session: str, *, fresh: bool) -> None:
        """The agent named its conversation."""

    async def output(self, piece: Output) -> None:
        """A piece of output; returns once it is stored."""

    async def pump(self) -> None:
        """Pass on until closed and empty."""

    def close(self) -> None:
        """Nothing more comes."""


class Attempt:
    """Runs the agent for one assignment. `run` is called once."""

    def __init__(
        self, place: Place, work: Assignment, run: str, *, reports: Telling, stop: Stop,
        family: Family, deadline: float, parcels: Carrying,
    ) -> None:  # fmt: skip
        self._place = place
        self._work = work
        self._run = run
        self._reports = reports
        self._stop = stop
        self._family = family
        self._deadline = deadline
        budget = place.boot.output_bytes
        self._outlet = Outlet(reports.output, place.secrets, run=run, budget=budget)
        self._conversation = conversation(place.agent, work.agent_session)
        self._session: str | None = None
        self._lost = False
        self._ran: list[Ran] = []
        self._verdict: Verdict | None = None
        self._format = AnswerFormat.of(place.agent, work.data_schema)
        self._workspace = Workspace(place, family, run, parcels)
        self._sharing = Sharing(place, work, run, parcels)
        self._shared: ConversationLeft | None = None
        self._git: GitState | None = None
        self._left: Work | None = None

    async def run(self) -> Finished:
        """From the first turn to the report, which is left to the caller to publish."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._reports.pump(), name="reports")
            pouring = group.create_task(self._outlet.pump(), name="output")
            try:
                ending = await self._settled(await self._ending())
            finally:
                self._outlet.close()
                self._reports.close()
            await asyncio.wait({pouring}, timeout=LAST_OUTPUT)
            if not pouring.done():
                pouring.cancel()
                self._outlet.give_up()
            await telling
        return self._finished(ending)

    async def _ending(self) -> Ending:
        try:
            if self._stop.wanted.is_set():
                return Ending(self._stop.state, self._stop.reason, self._stop.detail)
            await self._prepare()
            if self._stop.wanted.is_set():
                return Ending(self._stop.state, self._stop.reason, self._stop.detail)
            ran = await self._first_turn()
            ending = self._failure(ran)
            if ending is not None:
                return ending
            if self._place.agent.verdict == "exit-code":
                return Ending("succeeded")
            return await self._judged(ran)
        except NotStarted as error:
            return Ending("failed", "not-started", str(error))
        except Unfit as error:
            return Ending("failed", "workspace", str(error))

    async def _prepare(self) -> None:
        """Make the worker fit, unless that takes until the deadline or somebody stops it."""
        loop = asyncio.get_running_loop()
        preparing = loop.create_task(self._begin())
        stopping = loop.create_task(self._stop.wanted.wait())
        try:
            await asyncio.wait(
                {preparing, stopping},
                timeout=max(0.0, self._deadline - time.monotonic()),
                return_when="FIRST_COMPLETED",
            )
            if preparing.done():
                preparing.result()
            elif not self._stop.wanted.is_set():
                detail = "The deadline passed before the workspace was ready."
                self._stop.want("timed-out", "deadline", detail)
        finally:
            preparing.cancel()
            stopping.cancel()
            await asyncio.wait({preparing, stopping})

    async def _begin(self) -> None:
        for note in await self._workspace.begin(self._work):
            self._reports.note(note)
        if why := await self._sharing.lay():
            self._begin_afresh(f"the shared session is lost ({why})")

    def _begin_afresh(self, why: str) -> None:
        log.warning("session.lost", agent_session=self._conversation.id)
        self._reports.note(Noted("status", f"{why}; a fresh conversation begins"))
        self._lost = True
        self._conversation = fresh(self._place.agent)

    async def _settled(self, ending: Ending) -> Ending:
        """What git says, the work that is left, and a shared conversation, once the agent is gone."""
        early = ending.state in {"cancelled", "timed-out"}
        if self._git is None:
            self._git = await self._claims().state(remote=not early)
        patience = SETTLING_EARLY if early else SETTLING
        left = self._deadline + SETTLING_EARLY - time.monotonic()
        if ending.reason == "drained":
            left = SETTLING_DRAINED
        until = time.monotonic() + max(SETTLING_DRAINED, min(patience, left))
        self._left = await self._workspace.end(self._work, until - time.monotonic())
        self._shared = await self._sharing.keep(
            self._session, max(SETTLING_DRAINED, until - time.monotonic())
        )
        return ending

    async def _first_turn(self) -> Ran:
        ran = await self._turn(self._prompt(), self._conversation)
        if self._conversation.resumed and is_lost(self._place.agent, ran):
            self._begin_afresh(f"conversation {self._conversation.id} is not known any more")
            self._ran.clear()
            ran = await self._turn(self._prompt(), self._conversation)
        return ran

    def _failure(self, ran: Ran) -> Ending | None:
        agent = self._place.agent
        events = self._adapter().ends_with_event
        return cut_short(ran, self._stop, agent.inactivity) or broke(
            ran, agent, ends_with_event=events
        )

    async def _judged(self, ran: Ran) -> Ending:
        verdict = self._format.read(ran.reading)
        if isinstance(verdict, VerdictProblem) and self._can_ask_again():
            self._reports.note(Noted("status", f"asked again: {verdict.detail}"))
            self._conversation = Conversation(self._session or "", resumed=True)
            again = await self._turn(self._format.repair(verdict), self._conversation)
            if (ending := cut_short(again, self._stop, self._place.agent.inactivity)) is not None:
                return ending
            if self._failure(again) is None:
                verdict = self._format.read(again.reading)
        if isinstance(verdict, VerdictProblem):
            return judged(ran, verdict)
        self._verdict = verdict
        ending = judged(ran, verdict)
        if ending.state == "succeeded":
            claims = self._claims()
            self._git = await claims.state(remote=True)
            if doubts := await claims.doubts(verdict, self._git):
                return Ending("failed", "unverified", doubts)
        return ending

    def _can_ask_again(self) -> bool:
        agent = self._place.agent
        knows_how = agent.asks_for_result and agent.resume is not None and self._session is not None
        in_time = self._deadline - time.monotonic() > REPAIR_NEEDS
        return knows_how and in_time and self._enough(None) is None

    def _used(self) -> Usage | None:
        used: Usage | None = None
        for each in self._ran:
            used = added(used, each.reading.usage or each.reading.so_far)
        return used

    def _enough(self, more: Usage | None) -> str | None:
        """The bound of the budget that is reached with what the turn that runs has used."""
        return overrun(self._work.budget, spent_in(added(self._used(), more)))

    def _claims(self) -> Claims:
        git = self._workspace.asking(self._place.environment(self._run))
        return Claims(git=git, began_at=self._workspace.head)

    def _prompt(self) -> str:
        asks = self._place.agent.asks_for_result
        return f"{self._work.prompt}\n{self._format.explanation}" if asks else self._work.prompt

    async def _turn(self, prompt: str, conversation: Conversation) -> Ran:
        place, agent = self._place, self._place.agent
        file = Path(place.boot.home, ".jetcrew", f"prompt-{self._run}")
        in_file = agent.prompt_via == "file"
        if in_file:
            _write(file, prompt)
        resumes = agent.resume is not None and conversation.resumed
        schema, schema_file = self._format.schema, file.with_name(f"schema-{self._run}.json")
        if schema:
            _write(schema_file, schema)
        values = place.values(
            session=conversation.id,
            prompt_file=str(file) if in_file else "",
            schema=schema,
            schema_file=str(schema_file) if schema else "",
        )
        command = Command(
            argv=values.argv(agent.resume if resumes and agent.resume else agent.first),
            env=place.environment(self._run),
            cwd=place.workspace,
            stdin=b"" if in_file else prompt.encode("utf-8", "replace"),
            run=self._run,
            cancel_signal=signal_of(agent.cancel_signal),
            cancel_grace=agent.cancel_grace,
            deadline=self._deadline,
            inactivity=agent.inactivity,
            retries=agent.retries,
            enough=self._enough,
        )
        try:
            ran = await take_turn(
                command, self._adapter(), self, family=self._family, stop=self._stop
            )
        finally:
            _remove(file)
            _remove(schema_file)
        reading = ran.reading
        if agent.counts == "conversation" and reading.usage and reading.session:
            totals = Totals(Path(place.boot.home))
            reading.usage = totals.turn(reading.session, reading.usage, resumed=resumes)
        self._ran.append(ran)
        return ran

    def _adapter(self) -> Adapter:
        return adapter_for(self._place.agent, self._place.values().fill)

    # -- what a turn tells ------------------------------------------------------------------------

    def heard(self, stream: StreamName, data: bytes) -> None:
        """Pass output on."""
        self._outlet.feed(stream, data)

    def noted(self, note: Noted) -> None:
        """Pass progress on."""
        self._reports.note(note)

    def met(self, session: str) -> None:
        """Tell of the conversation as soon as it is known: a later turn needs it even after a crash."""
        if session != self._session:
            self._session = session
            self._reports.session(session, fresh=not self._conversation.resumed)

    # -- the report -------------------------------------------------------------------------------

    def _finished(self, ending: Ending) -> Finished:
        secrets = self._place.secrets
        ran = self._ran[-1] if self._ran else None
        detail = (
            f"{ending.detail} The earlier conversation was lost." if self._lost else ending.detail
        )
        text = "\n\n".join(each.reading.text for each in self._ran if each.reading.text)
        return Finished(
            task=self._work.task,
            attempt=self._work.attempt,
            run=self._run,
            state=ending.state,
            end=TaskEnd(
                reason=ending.reason,
                until=ending.until,
                detail=secrets.redact(clean(detail)).strip(),
                verdict=self._redacted_verdict(),
                text=_end_of(secrets.redact(clean(text))),
                exit_code=ran.exit_code if ran else None,
                signal=ran.signal if ran else None,
                took=round(sum(each.took for each in self._ran), 3) if ran else None,
                usage=self._used(),
                agent_session=self._session,
                output_bytes=self._outlet.accepted_bytes,
                output_dropped_bytes=self._outlet.dropped_bytes,
                git=self._git,
                work=self._redacted_work(),
                conversation=self._shared,
            ),
        )

    def _redacted_work(self) -> Work | None:
        if self._left is None or not self._left.lost:
            return self._left
        return replace(self._left, lost=self._place.secrets.redact(clean(self._left.lost)))

    def _redacted_verdict(self) -> Verdict | None:
        if self._verdict is None:
            return None
        secrets = self._place.secrets
        return Verdict(
            status=self._verdict.status,
            summary=secrets.redact(self._verdict.summary),
            data=secrets.redact_in(self._verdict.data),
        )


def _end_of(text: str) -> str:
    data = text.encode()
    return text if len(data) <= TEXT else f"…{data[-TEXT + 3 :].decode(errors='ignore')}"


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _write(file: Path, prompt: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(prompt.encode("utf-8", "replace"))
        file.chmod(0o600)
    except OSError as error:
        raise NotStarted(f"the prompt could not be written: {error}") from None
