"""One prompt, from a worker that can take it to its verdict, with everything put away afterwards."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from contracts.budget import Budget
from contracts.bus import Bus, Stored
from contracts.codec import decode
from contracts.errors import BusClosed, JetcrewError, NotThere, Refused
from contracts.ids import TaskId, WorkerId
from contracts.reports import Output
from contracts.task import CancelTask, SubmitTask, TaskRecord
from contracts.topology import TASK, WORKER
from contracts.worker import CreateWorker, DeleteWorker, PutSecret, WorkerRecord
from services.cli.failures import (
    INTERRUPTED,
    SUCCESS,
    UNSUCCESSFUL,
    CrewFailed,
    Interrupted,
    OutputClosed,
    WorkerFailedToStart,
)
from services.cli.follow import follow, last_sequence
from services.cli.link import call, status_of
from services.cli.packing import Packed
from services.cli.repository import Returned, lay_out
from services.cli.screen import Screen
from services.cli.signals import Interrupts
from services.cli.text import verdict_line
from services.cli.watch import Watch

MANAGER_PATIENCE = 120.0
"""Seconds for a manager to answer first."""
LIVENESS_EVERY = 10.0
LIVENESS_PATIENCE = 40.0
"""Seconds without an answer of the manager after which it counts as gone."""
CANCEL_PATIENCE = 45.0
"""Seconds from a cancel to the task's end."""
LATE_END = 30.0
"""Seconds that the end of a task may come after its worker's."""
STOP_PATIENCE = 30.0
OUTPUT_PATIENCE = 15.0
"""Seconds for the rest of the output after the end."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be done."""

    prompt: str
    timeout: float
    worker: WorkerId
    task: TaskId
    spec: CreateWorker | None
    """The worker to be made; None: it exists."""
    secrets: Mapping[str, str]
    keep: bool
    session: str = "continue"
    repository: Packed | None = None
    """What is laid into the workspace before the agent starts."""
    budget: Budget = field(default_factory=Budget)
    data_schema: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    exit_code: int
    task: TaskRecord | None
    worker: WorkerRecord | None
    returned: Returned | None = None
    """What became of the work, where a repository was sent along."""


class Errand:
    """Carries out one order over one connection."""

    def __init__(
        self,
        bus: Bus,
        order: Order,
        screen: Screen,
        interrupts: Interrupts,
        given_up: Callable[[], JetcrewError | None],
        prove: Callable[[], None],
        clear: Callable[[Bus], Awaitable[None]] | None,
    ) -> None:
        self._bus = bus
        self._order = order
        self._screen = screen
        self._interrupts = interrupts
        self._given_up = given_up
        self._prove = prove
        self._clear = clear
        self._watch = Watch(screen, order.worker, order.task)
        self._made = False
        self._submitted = False
        self._unread = False
        self._pieces: dict[str, int] = {}
        self._missing = 0

    async def run(self) -> Outcome:
        """Do it.

        Raises:
            Refused, InvalidMessage: the crew does not take it.
            CrewFailed, WorkerFailedToStart: it cannot.
            OutputClosed: nobody reads the output any more; the task was cancelled.
        """
        finished = asyncio.Event()
        self._interrupts.on_ask.append(self._watch.poke)
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(self._guard(finished))
            try:
                await self._manager_answers()
                subject = self._bus.subjects.events(worker=self._order.worker)
                after = await last_sequence(self._bus, "JC_EVT", subject)
                group.create_task(
                    follow(self._bus, "JC_EVT", subject, self._watch.take, after=after, finished=finished)
                )  # fmt: skip
                outcome = await self._carry_out()
            finally:
                try:
                    await self._put_away()
                finally:
                    self._screen.idle()
                    finished.set()
                    guard.cancel()
        if self._unread:
            raise OutputClosed("nobody reads the output any more")
        return outcome

    # -- the way there ----------------------------------------------------------------------------

    async def _carry_out(self) -> Outcome:
        over = asyncio.Event()
        subject = self._bus.subjects.output(self._order.worker, self._order.task)
        async with asyncio.TaskGroup() as group:
            output = group.create_task(
                follow(self._bus, "JC_OUT", subject, self._take_output, after=0, finished=over)
            )
            try:
                await self._to_its_end()
                interrupted = False
            except Interrupted:
                interrupted = True
                await self._cancel()
            finally:
                over.set()
                _, late = await asyncio.wait({output}, timeout=OUTPUT_PATIENCE)
                if late:
                    self._screen.phase("the rest of the output could not be read")
                    output.cancel()
        await self._screen.end_output()
        if self._missing:
            self._screen.phase(f"{self._missing} pieces of the output are missing")
        return await self._outcome(interrupted=interrupted)

    async def _to_its_end(self) -> None:
        order, watch = self._order, self._watch
        if order.spec is not None:
            await self._make(order.spec)
        self._heed_interrupt()
        await self._submit()
        await self._until(lambda: watch.over or watch.worker_state in {"failed", "stopped"})
        if not watch.over:
            await watch.until(lambda: watch.over, within=LATE_END)
        if watch.refused is not None:
            raise Refused(watch.refused.reason, field=watch.refused.field)
        if watch.end is None:
            raise CrewFailed(
                f"worker {order.worker} is {watch.worker_state}, and nothing was told of task {order.task}"
            )

    async def _manager_answers(self) -> None:
        """Wait for the manager; the first answer also says what there is of the worker."""
        self._screen.doing("waiting for the crew")
        give_up = time.monotonic() + MANAGER_PATIENCE
        record: WorkerRecord | None = None
        while True:
            self._heed_interrupt()
            if self._watch.broken is not None:
                raise self._watch.broken
            try:
                record = await status_of(self._bus, self._order.worker, wait=1, budget=0)
                break
            except NotThere:
                break
            except CrewFailed:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.05)
        self._prove()
        if self._clear is not None:
            await self._clear(self._bus)
        if self._order.spec is None:
            self._may_work(record)

    def _may_work(self, record: WorkerRecord | None) -> None:
        name = self._order.worker
        if record is None:
            raise NotThere(f'there is no worker "{name}" (jetcrew worker list shows them)')
        if record.ended or record.desired == "stopped":
            why = f" ({record.reason})" if record.reason else ""
            raise Refused(f'worker "{name}" is {record.state}{why}: it takes no prompts')

    async def _make(self, spec: CreateWorker) -> None:
        self._screen.doing(f"making worker {spec.name}")
        for name, value in self._order.secrets.items():
            await call(
                self._bus, "secret", "put", PutSecret(name=name, value=value, worker=spec.name)
            )
        await call(self._bus, "worker", "create", spec)
        self._made = True
        watch = self._watch
        await self._until(
            lambda: watch.worker_state in {"ready", "busy", "failed", "stopping", "stopped"}
        )
        if watch.worker_state not in {"ready", "busy"}:
            raise WorkerFailedToStart(
                f"worker {spec.name} did not start: {watch.worker_reason or watch.worker_state}"
            )
        await self._warn_if_open(spec)

    async def _warn_if_open(self, spec: CreateWorker) -> None:
        """Say so when `auto` became a process."""
        held = await self._bus.bucket(WORKER, WorkerRecord).read(spec.name)
        if spec.runtime == "auto" and held is not None and held.value.runtime == "process":
            self._screen.phase(
                "no isolation: the agent runs as a plain process, as no container engine is in use here"
            )

    async def _submit(self) -> None:
        order = self._order
        source = None
        if order.repository is not None:
            source = await lay_out(self._bus, order.worker, order.repository, self._screen)
            self._heed_interrupt()
        self._screen.doing(f"submitting task {order.task}")
        self._submitted = True
        body = SubmitTask(
            prompt=order.prompt,
            timeout=order.timeout,
            session=order.session,
            budget=order.budget,
            repository=source,
            data_schema=order.data_schema,
        )
        await self._bus.publish(self._bus.subjects.task(order.worker), body, id=order.task)

    # -- meanwhile --------------------------------------------------------------------------------

    def _heed_interrupt(self) -> None:
        if self._interrupts.asked.is_set():
            raise Interrupted("interrupted")

    async def _until(self, there: Callable[[], bool]) -> None:
        asked = self._interrupts.asked
        await self._watch.until(lambda: there() or asked.is_set())
        if not there():
            self._heed_interrupt()

    async def _take_output(self, page: Sequence[Stored]) -> None:
        """Pieces in their order. What is gone for good (a bound of the stream) is counted."""
        texts: list[tuple[str, str]] = []
        for stored in page:
            piece = decode(stored.data, Output)
            expected = self._pieces.get(piece.run, 0) + 1
            self._missing += max(0, piece.n - expected)
            self._pieces[piece.run] = max(piece.n, expected - 1)
            texts.append((piece.stream, piece.text))
        if self._unread:
            return
        try:
            for source, parts in itertools.groupby(texts, key=itemgetter(0)):
                await self._screen.output("".join(text for _, text in parts), source)
        except OutputClosed:
            self._unread = True
            self._interrupts.asked.set()
            self._watch.poke()

    async def _guard(self, finished: asyncio.Event) -> None:
        """Notice what no event tells: a crew that is gone."""
        heard = looked = time.monotonic()
        while not finished.is_set():
            await asyncio.sleep(0.25)
            if error := self._given_up():
                self._watch.fail(error)
            if self._bus.closed.is_set():
                self._watch.fail(BusClosed("the connection to the bus was closed for good"))
            now = time.monotonic()
            if not self._submitted or now - looked < LIVENESS_EVERY:
                heard = now if not self._submitted else heard
                continue
            looked = now
            try:
                await status_of(self._bus, self._order.worker, wait=1, budget=0)
                heard = time.monotonic()
            except CrewFailed as error:
                if now - heard > LIVENESS_PATIENCE:
                    self._watch.fail(error)
            except JetcrewError:
                heard = time.monotonic()

    # -- the end ----------------------------------------------------------------------------------

    async def _cancel(self) -> None:
        """Have the task ended, and see its end."""
        watch = self._watch
        if not self._submitted or watch.over:
            return
        self._screen.phase(f"cancelling task {self._order.task}; Ctrl-C again ends at once")
        self._screen.doing("cancelling")
        known = await watch.until(lambda: watch.task_state is not None or watch.over, within=10)
        if not known or watch.over:
            return
        await call(
            self._bus, "task", "cancel", CancelTask(task=self._order.task, reason="interrupted")
        )
        if not await watch.until(lambda: watch.over, within=CANCEL_PATIENCE):
            self._screen.phase(f"no end of task {self._order.task} was told")

    async def _put_away(self) -> None:
        """Delete the worker that was made for this, and see it gone: the crew may end with us."""
        if not self._made:
            return
        if self._order.keep and self._submitted:
            self._screen.phase(
                f"worker {self._order.worker} stays: jetcrew run --worker {self._order.worker} …"
            )
            return
        if self._watch.broken is not None:
            self._screen.phase(f"worker {self._order.worker} could not be deleted")
            return
        watch = self._watch
        self._screen.doing(f"deleting worker {self._order.worker}")
        with contextlib.suppress(NotThere):
            await call(self._bus, "worker", "delete", DeleteWorker(name=self._order.worker))
            if not await watch.until(lambda: watch.worker_state == "stopped", within=STOP_PATIENCE):
                self._screen.phase(f"worker {self._order.worker} has not stopped yet")

    async def _outcome(self, *, interrupted: bool) -> Outcome:
        task = await self._bus.bucket(TASK, TaskRecord).read(self._order.task)
        worker = await self._bus.bucket(WORKER, WorkerRecord).read(self._order.worker)
        state = task.value.state if task else None
        if task is not None:
            self._tell_verdict(task.value)
        code = SUCCESS if state == "succeeded" else UNSUCCESSFUL
        return Outcome(
            exit_code=INTERRUPTED if interrupted else code,
            task=task.value if task else None,
            worker=worker.value if worker else None,
        )

    def _tell_verdict(self, task: TaskRecord) -> None:
        self._screen.phase(verdict_line(task.state, task.end))
        if task.end is not None and task.end.output_dropped_bytes:
            self._screen.phase(
                f"{task.end.output_dropped_bytes:,} bytes of output were over the worker's bound"
            )
