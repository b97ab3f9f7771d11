"""The routes that show records, and those that tell whether the process works."""

from itertools import islice
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from msgspec.structs import replace

from contracts.errors import InvalidMessage
from contracts.events import TaskState, WorkerState
from contracts.ids import ProjectId, TaskId, WorkerId
from contracts.project import ProjectRecord, ProjectState
from contracts.task import TaskRecord
from contracts.worker import WORKER_ENDED, WorkerRecord, places
from services.api.paging import page_of_tasks, page_of_workers
from services.api.params import (
    Filter,
    Id,
    ImageKey,
    Label,
    Limit,
    SessionKey,
    check_states,
    problems,
    states_of,
)
from services.api.reading import Reader
from services.api.views import (
    Health,
    Images,
    Nodes,
    Projects,
    Sessions,
    Tasks,
    Workers,
    session_named,
)
from services.kit.nodes import shown_nodes


@get("/v1/workers", responses=problems(401, 422, 503))
async def list_workers(
    reader: NamedDependency[Reader],
    states: Annotated[list[str] | None, states_of(WorkerState)] = None,
    agent: Filter = None,
    label: Label = None,
    after: Filter = None,
    limit: Limit = 100,
) -> Workers:
    """Workers by name."""
    check_states(states, WorkerState)
    labels = [pair.partition("=") for pair in label or ()]
    everybody = (await reader.workers.now()).values()
    found = (
        worker
        for worker in everybody
        if (not states or worker.state in states)
        and (agent is None or worker.agent == agent)
        and all(
            key in worker.labels and (not sign or worker.labels[key] == value)
            for key, sign, value in labels
        )
    )
    items, rest = page_of_workers(found, after, limit)
    at = places(everybody)
    return Workers(items=[replace(w, place=at.get(w.name)) for w in items], next=rest)


@get("/v1/workers/{worker:str}", responses=problems(401, 404, 422, 503))
async def get_worker(reader: NamedDependency[Reader], worker: Id) -> WorkerRecord:
    """All that is known of a worker."""
    return await reader.worker(WorkerId(worker))


@get("/v1/tasks", responses=problems(401, 422, 503))
async def list_tasks(
    reader: NamedDependency[Reader],
    worker: Filter = None,
    states: Annotated[list[str] | None, states_of(TaskState)] = None,
    after: Filter = None,
    limit: Limit = 100,
) -> Tasks:
    """Tasks, the newest first."""
    check_states(states, TaskState)
    known = await reader.tasks.now()
    if after is not None and after not in known:
        raise InvalidMessage(f'there is no task "{after}" to go on from', field="after")
    found = (
        task
        for task in known.values()
        if (worker is None or task.worker == worker) and (not states or task.state in states)
    )
    items, rest = page_of_tasks(found, None if after is None else known[after], limit)
    return Tasks(items=items, next=rest)


@get("/v1/tasks/{task:str}", responses=problems(401, 404, 422, 503))
async def get_task(reader: NamedDependency[Reader], task: Id) -> TaskRecord:
    """All that is known of a task."""
    return await reader.task(TaskId(task))


@get("/v1/images", responses=problems(401, 422, 503))
async def list_images(
    reader: NamedDependency[Reader],
    node: Filter = None,
    agent: Filter = None,
    after: ImageKey = None,
    limit: Limit = 100,
) -> Images:
    """Worker images by node: what they hold, and when each was last used."""
    known = await reader.images.now()
    found = (
        key
        for key in sorted(known)
        if (after is None or key > after)
        and (node is None or known[key].node == node)
        and (agent is None or known[key].agent == agent)
    )
    keys = list(islice(found, limit + 1))
    rest = keys[limit - 1] if len(keys) > limit else None
    return Images(items=[known[key] for key in keys[:limit]], next=rest)


@get("/v1/projects", responses=problems(401, 422, 503))
async def list_projects(
    reader: NamedDependency[Reader],
    states: Annotated[list[str] | None, states_of(ProjectState)] = None,
    after: Filter = None,
    limit: Limit = 100,
) -> Projects:
    """Projects by name, with their budgets and what they have spent."""
    check_states(states, ProjectState)
    known = await reader.projects.now()
    found = (
        name
        for name in sorted(known)
        if (after is None or name > after) and (not states or known[name].state in states)
    )
    names = list(islice(found, limit + 1))
    rest = names[limit - 1] if len(names) > limit else None
    return Projects(items=[known[name] for name in names[:limit]], next=rest)


@get("/v1/projects/{project:str}", responses=problems(401, 404, 422, 503))
async def get_project(reader: NamedDependency[Reader], project: Id) -> ProjectRecord:
    """All that is known of a project."""
    return await reader.project(ProjectId(project))


@get("/v1/sessions", responses=problems(401, 422, 503))
async def list_sessions(
    reader: NamedDependency[Reader],
    worker: Filter = None,
    owner: Filter = None,
    agent: Filter = None,
    after: SessionKey = None,
    limit: Limit = 100,
) -> Sessions:
    """Sessions: workers' own, and those that the workers of an owner share."""
    known = {key: session_named(key, s) for key, s in (await reader.sessions.now()).items()}
    found = (
        key
        for key in sorted(known)
        if (after is None or key > after)
        and (worker is None or known[key].worker == worker)
        and (owner is None or known[key].owner == owner)
        and (agent is None or known[key].agent == agent)
    )
    keys = list(islice(found, limit + 1))
    rest = keys[limit - 1] if len(keys) > limit else None
    return Sessions(items=[known[key] for key in keys[:limit]], next=rest)


@get("/v1/nodes", responses=problems(401, 503))
async def list_nodes(reader: NamedDependency[Reader]) -> Nodes:
    """Nodes: those that are there, and those that are gone while workers are theirs."""
    workers = (await reader.workers.now()).values()
    owners = [worker.node for worker in workers if worker.state not in WORKER_ENDED]
    return Nodes(items=shown_nodes(await reader.nodes(), owners))


@get("/healthz")
async def healthz() -> Health:
    """The process is alive."""
    return Health()


@get("/readyz", responses=problems(503))
async def readyz(reader: NamedDependency[Reader]) -> Health:
    """The bus is there and can be read."""
    await reader.check()
    return Health()


ROUTES = (
    list_workers, get_worker, list_tasks, get_task, list_sessions, list_projects, get_project,
    list_images, list_nodes, healthz, readyz,
)  # fmt: skip
