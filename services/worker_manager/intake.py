"""The door for prompts: each becomes a task's record, or a refusal that says why."""

import structlog

from contracts.bus import ACTOR, ANSWERS, Delivery, header
from contracts.bus.deadletter import bury
from contracts.codec import decode
from contracts.errors import InvalidMessage, NotThere, Refused
from contracts.ids import TaskId, WorkerId, is_token, message_id
from contracts.session import shared_session
from contracts.task import SubmitTask
from contracts.topology import Consumer
from contracts.worker import CreateWorker
from services.worker_manager import moves, schemas
from services.worker_manager.crew import Crew
from services.worker_manager.repositories import check

log = structlog.get_logger()


class Intake:
    """Takes prompts off the door's consumer; they stay in its stream until their attempt starts."""

    def __init__(self, crew: Crew, consumer: Consumer) -> None:
        self._crew = crew
        self._consumer = consumer
        self._cut = len(crew.bus.subjects.task(""))

    async def handle(self, delivery: Delivery) -> None:
        """One delivery."""
        name = delivery.subject[self._cut :]
        task = TaskId(message_id("t", delivery.id, delivery.seq))
        if not is_token(name):
            await bury(self._crew.bus, self._consumer, delivery, f"no worker can be named {name!r}")
            await self._crew.bus.delete_message("JC_TASK", delivery.seq)
            return
        worker = WorkerId(name)
        if (asked := header(delivery.headers, ANSWERS)) is not None:
            await self._answered(delivery, worker, TaskId(asked))
            return
        try:
            body = decode(delivery.data, SubmitTask)
            schemas.check(body.data_schema)
            spec = await self._check(worker, body)
        except InvalidMessage as error:
            await bury(self._crew.bus, self._consumer, delivery, str(error))
            await self._refuse(delivery, worker, task, error.reason, error.field)
            return
        except Refused as error:
            await self._refuse(delivery, worker, task, error.reason, error.field)
            return
        record = moves.queued(
            task, worker, body, self._crew.clock(), door_seq=delivery.seq,
            actor=header(delivery.headers, ACTOR),
            shared=shared_session(spec.owner, spec.agent, body.session),
        )  # fmt: skip
        if await self._crew.tasks.create(task, record, over=0) is None:
            await self._repeated(delivery, task)
            return
        log.info("task.queued", worker=worker, task=task)
        self._crew.poke(worker)

    async def _answered(self, delivery: Delivery, worker: WorkerId, task: TaskId) -> None:
        """An answer makes no task: its prompt is the next turn of the one that asked."""
        actor = header(delivery.headers, ACTOR)
        try:
            await self._check(worker, decode(delivery.data, SubmitTask))
            changed = await self._crew.tasks.change(
                task,
                lambda r: moves.answered(
                    r, worker, self._crew.clock(), door_seq=delivery.seq, actor=actor
                ),
            )
            if changed is None:
                await self._check_repeated(task, delivery.seq)
        except (InvalidMessage, Refused) as error:
            await bury(self._crew.bus, self._consumer, delivery, str(error))
            await self._crew.bus.delete_message("JC_TASK", delivery.seq)
            log.info("answer.refused", worker=worker, task=task, reason=str(error))
            return
        self._crew.poke(worker)

    async def _check_repeated(self, task: TaskId, seq: int) -> None:
        held = await self._crew.tasks.get(task)
        if held is None or held.value.door_seq != seq:
            raise Refused(f"task {task} has no question that this could answer")

    async def _check(self, worker: WorkerId, body: SubmitTask) -> CreateWorker:
        """What its worker was made as.

        Raises:
            NotThere, Refused: it cannot have the task.
        """
        held = await self._crew.workers.get(worker)
        if held is None:
            raise NotThere(f"there is no worker {worker!r}")
        if held.value.ended or held.value.desired == "stopped":
            why = f" ({held.value.reason})" if held.value.reason else ""
            raise Refused(f"worker {worker!r} is {held.value.state}{why}")
        await check(self._crew.bus, worker, body.repository, held.value.spec.limits)
        return held.value.spec

    async def _refuse(
        self, delivery: Delivery, worker: WorkerId, task: TaskId, reason: str, field: str | None
    ) -> None:
        record = moves.refused(
            task, worker, self._crew.clock(), reason, field=field, door_seq=delivery.seq
        )
        if await self._crew.tasks.create(task, record, over=0) is None:
            await self._repeated(delivery, task)
        log.info("task.refused", worker=worker, task=task, reason=reason)

    async def _repeated(self, delivery: Delivery, task: TaskId) -> None:
        """The record is there, or was: this is the same message again, or a later one under the same id."""
        held = await self._crew.tasks.get(task)
        if held is None or held.value.door_seq != delivery.seq:
            await self._crew.bus.delete_message("JC_TASK", delivery.seq)
            log.info("task.repeated", task=task, seq=delivery.seq)
