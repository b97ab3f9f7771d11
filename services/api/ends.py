"""The routes that show what is kept of ends: evidence and transcripts."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from contracts.codec import decode
from contracts.errors import NotThere
from contracts.events import ArtifactRef
from contracts.evidence import TaskEvidence, UnitEvidence
from contracts.ids import TaskId, WorkerId
from contracts.task import TaskRecord
from services.api.params import Id, problems
from services.api.reading import Reader

Attempt = Annotated[
    int | None, QueryParameter(ge=1, description="Of this attempt; the last one, if not given.")
]


@get("/v1/workers/{worker:str}/evidence", responses=problems(401, 404, 422, 503))
async def evidence_of_worker(reader: NamedDependency[Reader], worker: Id) -> UnitEvidence:
    """What is known of the end of a worker's last unit."""
    record = await reader.worker(WorkerId(worker))
    if record.evidence is None:
        why = record.not_kept or "none of its units has ended"
        raise NotThere(f'there is no evidence of worker "{worker}": {why}')
    return decode(await reader.document(record.evidence), UnitEvidence)


@get("/v1/tasks/{task:str}/evidence", responses=problems(401, 404, 422, 503))
async def evidence_of_task(
    reader: NamedDependency[Reader], task: Id, attempt: Attempt = None
) -> TaskEvidence:
    """What is known of the end of an attempt."""
    record = await reader.task(TaskId(task))
    return decode(await reader.document(_of(record, attempt, "evidence")), TaskEvidence)


@get(
    "/v1/tasks/{task:str}/transcript",
    media_type="text/plain",
    responses=problems(401, 404, 422, 503),
)
async def transcript_of_task(
    reader: NamedDependency[Reader], task: Id, attempt: Attempt = None
) -> Stream:
    """All that the agent wrote in an attempt, secrets replaced."""
    record = await reader.task(TaskId(task))
    found = _of(record, attempt, "transcript")
    return Stream(
        await reader.artifact(found),
        media_type="text/plain; charset=utf-8",
        headers={"ETag": f'"{found.sha256}"'},
    )


def _of(record: TaskRecord, attempt: int | None, what: str) -> ArtifactRef:
    end = record.end_of(attempt or record.last_ended)
    found: ArtifactRef | None = getattr(end, what, None)
    if found is None:
        why = (end.not_kept if end else "") or (
            "it has not ended" if end is None else "it did not run"
        )
        of = f" (attempt {attempt})" if attempt else ""
        raise NotThere(f'there is no {what} of task "{record.id}"{of}: {why}')
    return found


ROUTES = (evidence_of_worker, evidence_of_task, transcript_of_task)
