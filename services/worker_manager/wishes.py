"""Pause and resume: what is wanted of a worker, changed where that makes sense."""

from typing import Literal

from msgspec.structs import replace

from contracts.errors import Refused
from contracts.results import Result
from contracts.worker import WorkerRecord
from services.worker_manager.crew import Crew


async def want(crew: Crew, name: str, desired: Literal["running", "paused"]) -> Result:
    """Have a worker paused, or run again; its keeper makes it so.

    Raises:
        NotThere: there is no such worker.
        Refused: it works, is about to, or is not ready at all.
    """
    wanted = {"running": "ready", "paused": "paused"}[desired]
    at = crew.clock()

    def step(record: WorkerRecord) -> WorkerRecord | None:
        if record.state not in {"ready", "paused"}:
            return None
        # who is told to run while it is about to be frozen begins to idle anew
        idle_since = at if desired == "running" else record.idle_since
        return replace(record, desired=desired, idle_since=idle_since)

    # it may begin a task between the look and the change: then the wish is refused, not lost
    while True:
        record = await crew.worker(name)
        if record.state == wanted and record.desired == desired:
            return Result(worker=record.name, detail=f"is {wanted}")
        if record.state not in {"ready", "paused"}:
            only = "ready one can be paused" if desired == "paused" else "paused one can be resumed"
            raise Refused(f"worker {name!r} is {_doing(record)}; only a {only}")
        if desired == "paused" and await crew.works(record.name):
            raise Refused(
                f"worker {name!r} has a task in its queue; it can be paused once it has none"
            )
        if await crew.workers.change(name, step) is not None:
            crew.poke(record.name)
            return Result(worker=record.name, detail=f"will be {wanted}")


def _doing(record: WorkerRecord) -> str:
    return record.state + (f" with task {record.task}" if record.task else "")
