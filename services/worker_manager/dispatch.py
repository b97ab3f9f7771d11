"""Giving a worker its next task."""

import structlog

from contracts.asks import Assignment
from contracts.budget import EXHAUSTED, Budget, left_for, overrun
from contracts.bus import CAUSE, MSG_ID, Stored
from contracts.codec import decode
from contracts.errors import QueueFull
from contracts.events import TaskEnd
from contracts.ids import WorkerId, nonce
from contracts.task import SubmitTask
from contracts.worker import WorkerRecord
from services.worker_manager.crew import Crew, answers, task_at
from services.worker_manager.projects import CLOSED, refusal

log = structlog.get_logger()

STALE = 10.0
"""Seconds that a wrapper which is ready may take to ask about the assignment it was given."""


async def dispatch(crew: Crew, to: WorkerRecord, stored: Stored) -> bool:
    """Give its longest waiting prompt to a worker that is ready; the broker itself refuses a second one.
    True when it is worth looking again at once."""
    worker, task = to.name, task_at(stored)
    held = await crew.tasks.get(task)
    if held is None or (answers(stored) and held.value.state == "input-required"):
        return False  # not taken in yet; the intake has us look again
    if held.value.state == "running" and held.value.door_seq == stored.seq:
        return False  # it keeps its prompt for a further attempt; the worker's record is about to say so
    if held.value.state != "queued" or held.value.door_seq != stored.seq:
        await crew.bus.delete_message("JC_TASK", stored.seq)  # left by one that died in between
        return True
    if to.parked_until is not None and to.parked_until > crew.clock():
        return False
    allowed = await _allowance(crew, to, held.value.budget)
    if isinstance(allowed, TaskEnd):
        await crew.end(task, "failed", allowed)
        return True
    if (goes_on := await crew.going_on(held.value)) is None:
        return False  # another task is in its session; when that has ended, we look again
    body = decode(stored.data, SubmitTask)
    assignment = Assignment(
        task=task,
        attempt=held.value.attempt,
        nonce=nonce(),
        prompt=body.prompt,
        timeout=body.timeout,
        agent_session=goes_on.agent_session,
        shared=goes_on.shared,
        context=body.context,
        repository=body.repository,
        data_schema=held.value.data_schema,
        budget=allowed,
    )
    name = f"{task}:{held.value.attempt}:{assignment.nonce}"
    try:
        await crew.bus.publish(
            crew.bus.subjects.run(worker), assignment, id=name, headers={CAUSE: task}
        )
    except QueueFull:
        return await _withdraw_stale(crew, worker)
    log.info("task.assigned", worker=worker, task=task, attempt=held.value.attempt)
    return False


async def _allowance(crew: Crew, to: WorkerRecord, own: Budget) -> Budget | TaskEnd:
    """What a task may use, the tightest of its own bounds, its worker's and its project's; or the end of one
    that may not start."""
    if (why := overrun(to.spec.budget, to.spent)) is not None:
        return TaskEnd(reason=EXHAUSTED, detail=f"worker {to.name} has used up its budget: {why}")
    allowed = left_for(own, to.spec.budget, to.spent)
    if (name := to.spec.project) is None:
        return allowed
    project = await crew.projects.get(name)
    if project is None:
        return TaskEnd(reason=CLOSED, detail=f"there is no project {name}")
    return refusal(project) or left_for(allowed, project.budget, project.spent)


async def _withdraw_stale(crew: Crew, worker: WorkerId) -> bool:
    """An assignment that nobody asks to start was lost on its way, as when the server is killed while it
    delivers: take it back, so that it is given anew."""
    opened = await crew.bus.last("JC_RUN", crew.bus.subjects.run(worker))
    if opened is None or (crew.clock() - opened.at).total_seconds() < STALE:
        return False
    log.warning("assignment.stale", worker=worker, id=opened.headers.get(MSG_ID))
    return await crew.bus.delete_message("JC_RUN", opened.seq)
