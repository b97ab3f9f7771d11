"""The records of tasks and workers that ended long ago, and what hangs on them.

A task's id is taken for as long as the marker of its record stays. A worker's name is free at once: a later
one of that name goes on from the events of the last.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from contracts.bus import Artifact, Artifacts, Held, Lease
from contracts.errors import Conflict, JetcrewError
from contracts.ids import WorkerId, nonce, number_of
from contracts.node import NodeRecord
from contracts.task import TaskRecord
from contracts.topology import LEASE, NODE, OBJECTS
from contracts.worker import WorkerRecord
from services.worker_manager.cleaning.judging import doubt, standing
from services.worker_manager.cleaning.seen import Seen, Thing, Verdict
from services.worker_manager.crew import Crew, is_open

log = structlog.get_logger()

DUTY = "retention"
"""Lease of the one that looks at the records of the whole crew."""
TTL = 30.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is left of those that ended long ago, and what is known of all others. Asks nobody."""

    seen: Seen
    tasks: Mapping[str, Held[TaskRecord]]
    """Unchanged for as long as records stay."""
    workers: Mapping[str, Held[WorkerRecord]]
    """Likewise."""
    busy: frozenset[str]
    """Workers with tasks that are not over."""
    nodes: frozenset[str]
    """Those that are there."""

    def tasks_due(self) -> list[str]:
        """Those that are over for good and owe nothing. The highest number stays: the door's numbers go on
        from it, should its stream ever be made anew."""
        highest = max(self.tasks, key=number_of, default="")
        return [
            key
            for key, held in self.tasks.items()
            if self._over(held.value) and not (key == highest and number_of(key))
        ]

    def _over(self, task: TaskRecord) -> bool:
        known = self.seen.workers or {}
        worker = known.get(task.worker)
        if is_open(task) or task.door_seq is not None or (worker and worker.task == task.id):
            return False
        return task.over or worker is None or worker.ended  # nobody can answer it any more

    def workers_due(self, *, whole: bool) -> list[str]:
        """Those that are over, of which nothing is left where it may be. `whole`: not only this node's own."""
        left = {thing.worker for thing in self.seen.things}
        return [
            key
            for key, held in self.workers.items()
            if not is_open(held.value)
            and key not in left | self.busy
            and self._is_ours(held.value, whole=whole)
        ]

    def _is_ours(self, worker: WorkerRecord, *, whole: bool) -> bool:
        """Whether it can be told from here that nothing is left of a worker."""
        if worker.node == self.seen.node:
            return self.seen.engine or worker.runtime != "docker"
        if worker.node is None:
            return whole
        return whole and worker.node not in self.nodes and standing(worker) == "over"


class Retention:
    """Finds and removes them. `keep` is for how many seconds records stay; 0: for ever."""

    def __init__(self, crew: Crew, node: str, keep: float) -> None:
        self._crew = crew
        self._node = node
        self._keep = keep
        self._artifacts = Artifacts(crew.bus)

    async def clean(self, seen: Seen, *, whole: bool, dry_run: bool) -> list[Verdict]:
        """What was removed, or would be. With `whole` this node looks at what is the whole crew's, too, and
        no other does meanwhile.

        Raises:
            BusUnavailable, and other JetcrewErrors: it cannot be told, or not all of it be removed.
        """
        if not self._keep or doubt(seen) is not None:
            return []
        lease = Lease(self._crew.bus, LEASE, DUTY, f"{self._node}-{nonce()}", TTL)
        async with lease.waited_for() if whole else contextlib.nullcontext():
            due = await self.due(seen, whole=whole)
            return due if dry_run or not due else await self.removed(due)

    async def due(self, seen: Seen, *, whole: bool) -> list[Verdict]:
        """What is to be removed; `whole` as for `clean`."""
        ended = await self._ended(seen, whole=whole)
        tasks = [ended.tasks[key] for key in ended.tasks_due()]
        workers = [ended.workers[key] for key in ended.workers_due(whole=whole)]
        return [*map(self._of_task, tasks), *map(self._of_worker, workers)]

    async def _ended(self, seen: Seen, *, whole: bool) -> Ended:
        before = self._crew.clock() - timedelta(seconds=self._keep)
        return Ended(
            seen=seen,
            tasks=await self._crew.tasks.bucket.unchanged_since(before) if whole else {},
            workers=await self._crew.workers.bucket.unchanged_since(before),
            busy=frozenset(h.value.worker for h in (await self._crew.open_tasks.now()).values()),
            nodes=frozenset(await self._crew.bus.bucket(NODE, NodeRecord).list()),
        )

    def _of_task(self, held: Held[TaskRecord]) -> Verdict:
        task = held.value
        thing = Thing(
            kind="task-record", name=task.id, worker=task.worker, revision=held.revision,
            made_at=task.changed_at,
        )  # fmt: skip
        return Verdict(what=thing, remove=True, why=f"it ended more than {self._keep:g} s ago")

    def _of_worker(self, held: Held[WorkerRecord]) -> Verdict:
        worker = held.value
        thing = Thing(
            kind="worker-record", name=worker.name, worker=worker.name, revision=held.revision,
            made_at=worker.changed_at,
        )  # fmt: skip
        why = f"it ended more than {self._keep:g} s ago, and nothing else is left of it"
        return Verdict(what=thing, remove=True, why=why)

    async def removed(self, due: Sequence[Verdict]) -> list[Verdict]:
        """Remove the objects of each, then its record: whoever dies in between leaves the record. Those whose
        record has changed since it was judged stay, and are not among what is returned."""
        objects: dict[str, list[Artifact]] = defaultdict(list)
        shared = await self._crew.sharing.objects()  # they go with their sessions
        for artifact in await self._artifacts.list():
            if artifact.name in shared:
                continue
            objects[artifact.name.rpartition("/")[0]].append(artifact)
        gone: list[Verdict] = []
        for verdict in due:
            thing = verdict.what
            assert isinstance(thing, Thing)
            try:
                await self._remove(thing, objects)
            except Conflict:
                log.info("record.changed", kind=thing.kind, name=thing.name)
            except JetcrewError as error:
                log.warning("retention.postponed", error=str(error))
                break
            else:
                gone.append(verdict)
        return gone

    async def _remove(self, thing: Thing, objects: Mapping[str, Sequence[Artifact]]) -> None:
        if thing.kind == "task-record":
            await self._forget(objects.get(f"{thing.worker}/{thing.name}", ()))
            await self._crew.tasks.bucket.delete(thing.name, thing.revision)
            return
        laid_out = OBJECTS.all_handed_to(WorkerId(thing.name)).rstrip("/")
        own = [*objects.get(thing.name, ()), *objects.get(laid_out, ())]
        # what is younger is for the next of the name
        await self._forget(a for a in own if thing.made_at and a.at < thing.made_at)
        await self._crew.workers.bucket.delete(thing.name, thing.revision)

    async def _forget(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            await self._artifacts.delete(artifact.name)
