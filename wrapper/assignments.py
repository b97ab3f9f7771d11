"""Taking assignments: ask before starting, run, report, then acknowledge."""

import asyncio
import contextlib
import time

import structlog

from contracts.asks import Assignment, StartAnswer, StartTask
from contracts.bus import Bus, Delivery
from contracts.codec import decode
from contracts.errors import BusUnavailable, InvalidMessage, Retry
from contracts.events import TaskEnd
from contracts.ids import WorkerId, nonce
from contracts.reports import Finished
from wrapper.attempt import Attempt
from wrapper.boot import Place
from wrapper.family import Family
from wrapper.parcels import Parcels
from wrapper.report import Reports
from wrapper.state import Current, State

log = structlog.get_logger(__name__)

ASK_AGAIN = 0.5
"""Seconds until the next try when nobody answers."""


class Assignments:
    """Pulls one assignment at a time until the worker drains."""

    def __init__(
        self, bus: Bus, place: Place, *, reports: Reports, state: State, family: Family
    ) -> None:
        self._bus = bus
        self._place = place
        self._reports = reports
        self._state = state
        self._family = family
        self._worker = WorkerId(place.boot.worker)

    async def work(self) -> None:
        """Until the worker drains.

        Raises:
            BusClosed, ConsumerGone
        """
        consumer = self._bus.topology.run_consumer(self._worker)
        await self._bus.consume(consumer, self._handle, stop=self._state.draining)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            work = decode(delivery.data, Assignment)
        except InvalidMessage as error:
            log.error("assignment.invalid", error=str(error))  # the sender's fault, not ours
            return
        run = nonce()
        self._state.current = current = Current(work)
        try:
            with structlog.contextvars.bound_contextvars(
                task=work.task, attempt=work.attempt, run=run
            ):
                await self._run(current, run)
        finally:
            self._state.current = None

    async def _run(self, current: Current, run: str) -> None:
        work = current.work
        answer = await self._may_start(current, run)
        reports = self._reports.of(work, run, self._place.secrets)
        if answer is None:
            await reports.finished(_never_started(current, run))
            return
        if not answer.go:
            log.info("run.refused", reason=answer.reason)
            return
        seconds = work.timeout if answer.seconds_left is None else answer.seconds_left
        log.info("run.started", seconds_left=seconds)
        deadline = answer.deadline_at
        self._state.cover.ask(deadline.timestamp() if deadline else time.time() + seconds)
        attempt = Attempt(
            self._place,
            work,
            run,
            reports=reports,
            stop=current.stop,
            family=self._family,
            deadline=time.monotonic() + seconds,
            parcels=Parcels(self._bus, self._worker),
        )
        report = await attempt.run()
        await reports.finished(report)
        log.info("run.finished", state=report.state, reason=report.end.reason, took=report.end.took)

    async def _may_start(self, current: Current, run: str) -> StartAnswer | None:
        """The manager's answer, asked for through any outage; None when the run was cancelled meanwhile."""
        work = current.work
        subject = self._bus.subjects.ask(self._worker, "task.start")
        question = StartTask(task=work.task, attempt=work.attempt, run=run)
        while not current.stop.wanted.is_set():
            try:
                return await self._bus.ask(subject, question, StartAnswer)
            except BusUnavailable as error:
                log.info("start.unanswered", error=str(error))
            except InvalidMessage as error:
                log.warning("start.misunderstood", error=str(error))
            if self._state.draining.is_set():
                raise Retry("the worker ends")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN):
                    await current.stop.wanted.wait()
        return None


def _never_started(current: Current, run: str) -> Finished:
    stop = current.stop
    return Finished(
        task=current.work.task,
        attempt=current.work.attempt,
        run=run,
        state=stop.state,
        end=TaskEnd(reason=stop.reason, detail=stop.detail),
    )
