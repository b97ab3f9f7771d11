"""Gathering evidence of ends, and storing it before what it tells of is gone.

What cannot be gathered or stored holds nothing up for long: the end then says why there is none.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec.structs import replace

from contracts.bus import ApiRefused, Artifact, Artifacts, Source, StreamRefused
from contracts.codec import encode
from contracts.errors import (
    BusUnavailable,
    Conflict,
    Damaged,
    EngineRefused,
    EngineUnavailable,
    JetcrewError,
    QueueFull,
    TooLarge,
)
from contracts.events import ArtifactRef, TaskEnd, TaskState
from contracts.evidence import (
    EVIDENCE_BYTES,
    LOG_LINES,
    Resources,
    TaskEvidence,
    UnitEnd,
    UnitEvidence,
)
from contracts.redaction import Secrets
from contracts.task import TaskRecord
from contracts.topology import OBJECTS
from contracts.worker import WorkerRecord
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.runtimes import Exit, Runtime
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.transcripts import Transcript

log = structlog.get_logger()

AGAIN_AFTER = 1.0
"""Seconds until the next try to store what the store did not take."""
ROOM = 134_217_728
"""Bytes of the oldest objects that go when the store is full."""
NAMES = 9
"""Documents of one end; a manager that died in between may have stored one already."""
LOG_BYTES = 262_144
"""Of the end of a log, however long its lines are."""
KEYS = re.compile(r"\bS[UAO][A-Z2-7]{56}\b|\beyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}")
"""Seeds of bus users and JWTs: this side does not know those that workers hold."""

_NOT_STORED = (
    QueueFull, BusUnavailable, ApiRefused, StreamRefused, Conflict, Damaged, TooLarge, TimeoutError,
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a runtime shows of a unit."""

    log: str = ""
    resources: Resources | None = None
    missing: str = ""


class Evidence:
    """Gathers and stores. Knows the units of its own node only."""

    def __init__(
        self,
        crew: Crew,
        credentials: Credentials,
        runtimes: Mapping[str, Runtime],
        settings: ManagerSettings,
    ) -> None:
        self._crew = crew
        self._credentials = credentials
        self._runtimes = runtimes
        self._node = settings.node
        self._patience = settings.evidence_patience
        self._artifacts = Artifacts(crew.bus)

    # -- tasks ------------------------------------------------------------------------------------

    async def of_task(self, record: TaskRecord, state: TaskState, end: TaskEnd) -> TaskEnd:
        """The end, with its transcript and its evidence in the store."""
        end = replace(end, transcript=None, evidence=None, not_kept="")  # never what a worker says
        if record.run is None:
            return end
        try:
            async with asyncio.timeout(self._patience):
                return await self._of_task(record, state, end)
        except _NOT_STORED as error:
            return replace(end, not_kept=_why(error, record.id))

    async def _of_task(self, record: TaskRecord, state: TaskState, end: TaskEnd) -> TaskEnd:
        held = await self._crew.workers.bucket.get(record.worker)
        worker = held.value if held else None
        transcript, tail, missing = await self._transcript(record, worker)
        end = replace(end, transcript=transcript)
        shown = await self.look(worker) if worker else Look()
        document = TaskEvidence(
            at=self._crew.clock(), **_of_worker(record.worker, worker),
            unit_end=_unit_end(end) if end.told_by == "manager" else None,
            resources=shown.resources, log=shown.log, output=last_lines(tail),
            missing="; ".join(filter(None, (missing, shown.missing))),
            task=record.id, attempt=record.attempt, run=record.run, state=state, end=end,
            submitted_at=record.submitted_at, started_at=record.started_at,
            deadline_at=record.deadline_at,
        )  # fmt: skip
        name = OBJECTS.evidence_of_task(record.worker, record.id, record.attempt)
        return replace(end, evidence=await self._stored(name, lambda: encode(document)))

    async def _transcript(
        self, record: TaskRecord, worker: WorkerRecord | None
    ) -> tuple[ArtifactRef, str, str]:
        limit = (worker.spec.limits.output_mb if worker else 64) << 20
        reading = Transcript(self._crew.bus, record, limit)
        name = OBJECTS.transcript(record.worker, record.id, record.attempt)
        stored = await self._stored(name, reading.read, limit)
        missing = []
        if reading.lost:
            missing.append(f"{reading.lost} pieces of the output were lost")
        if reading.cut:
            missing.append(f"the transcript ends after {limit:,} bytes")
        return stored, reading.tail(), "; ".join(missing)

    # -- units ------------------------------------------------------------------------------------

    async def of_unit(
        self,
        record: WorkerRecord,
        reason: str | None,
        ended: Exit | None = None,
        *,
        seen: Look | None = None,
    ) -> dict[str, Any]:
        """Where the evidence is of the unit that a worker has, or had, or why there is none: fields of its
        record. `seen` is what was seen of the unit while it ran."""
        if not record.units:
            return {}
        try:
            async with asyncio.timeout(self._patience):
                stored = await self._of_unit(record, reason or "", ended, seen)
        except _NOT_STORED as error:
            return {"evidence": None, "not_kept": _why(error, record.name)}
        return {"evidence": stored, "not_kept": ""}

    async def _of_unit(
        self, record: WorkerRecord, reason: str, ended: Exit | None, seen: Look | None
    ) -> ArtifactRef:
        name = OBJECTS.evidence_of_unit(record.name, record.incarnation, record.units)
        present = await self._artifacts.info(name)
        if present is not None:  # this unit's, of a look that did not get further
            return _ref(present)
        shown = await self.look(record)
        ended = ended or await self._exit(record)
        document = UnitEvidence(
            at=self._crew.clock(), **_of_worker(record.name, record),
            unit_end=UnitEnd(
                exit_code=ended.code, oom=ended.oom, signal=ended.signal, reason=ended.reason
            ) if ended else None,
            resources=seen.resources if seen else shown.resources,
            log=shown.log, missing=shown.missing, reason=reason, number=record.units,
            task=record.task, requested_at=record.requested_at, ready_at=record.ready_at,
        )  # fmt: skip
        return await self._stored_in_time(name, encode(document))

    async def _exit(self, record: WorkerRecord) -> Exit | None:
        if record.runtime is None or record.node != self._node:
            return None
        unit = await self._runtimes[record.runtime].find(record.name)
        return unit.exit if unit else None

    async def _stored_in_time(self, name: str, document: bytes) -> ArtifactRef:
        """Until the store takes it: somebody may make room meanwhile."""
        until = asyncio.get_running_loop().time() + self._patience - AGAIN_AFTER
        while True:
            try:
                return await self._stored(name, lambda: document)
            except _NOT_STORED as error:
                log.warning("evidence.delayed", object=name, error=_text(error))
                if asyncio.get_running_loop().time() + AGAIN_AFTER > until:
                    raise
            await asyncio.sleep(AGAIN_AFTER)

    async def look(self, record: WorkerRecord) -> Look:
        """The log and the use of resources of a worker's unit, as far as they are to be had here."""
        if record.runtime is None:
            return Look()
        if record.node != self._node:
            return Look(missing=f"the log: it is on node {record.node}")
        runtime = self._runtimes[record.runtime]
        try:
            text = await runtime.logs(record.name, LOG_LINES)
            resources = await runtime.resources(record.name)
        except (EngineUnavailable, EngineRefused) as error:
            return Look(missing=f"the log: {error}")
        secrets = await self._secrets(record)
        return Look(last_lines(KEYS.sub("[redacted]", secrets.redact(text))), resources)

    async def _secrets(self, record: WorkerRecord) -> Secrets:
        values = [await self._credentials.secret(record.name, name) for name in record.spec.secrets]
        return Secrets(value for value in values if value is not None)

    async def _put(self, name: str, source: Callable[[], Source], limit: int) -> ArtifactRef:
        """What is new is worth more than what is oldest: a full store lets go of that."""
        try:
            return _ref(await self._artifacts.put(name, source(), limit=limit))
        except QueueFull:
            if not await self._artifacts.make_room(ROOM):
                raise
        return _ref(await self._artifacts.put(name, source(), limit=limit))

    async def _stored(
        self, name: str, source: Callable[[], Source], limit: int = EVIDENCE_BYTES
    ) -> ArtifactRef:
        """Store something under the first free name: what is there may be named in a record."""
        for n in range(1, NAMES + 1):
            as_name = name if n == 1 else f"{name}.{n}"
            try:
                return await self._put(as_name, source, limit)
            except Conflict:
                continue
        raise Conflict(f"there are {NAMES} objects {name} already")


def last_lines(text: str) -> str:
    """The last lines of a text, and not more than is worth keeping."""
    data = "\n".join(text.splitlines()[-LOG_LINES:]).encode("utf-8", "replace")
    return data[-LOG_BYTES:].decode("utf-8", "ignore")


def _of_worker(name: str, worker: WorkerRecord | None) -> dict[str, Any]:
    if worker is None:
        return {"worker": name}
    return {
        "worker": name, "incarnation": worker.incarnation, "node": worker.node,
        "runtime": worker.runtime, "image": worker.image, "agent": worker.spec.agent,
        "unit": worker.unit,
    }  # fmt: skip


def _unit_end(end: TaskEnd) -> UnitEnd | None:
    if end.exit_code is None and end.signal is None and end.reason != "oom":
        return None
    return UnitEnd(
        exit_code=end.exit_code, oom=end.reason == "oom", signal=end.signal, reason=end.reason or ""
    )


def _ref(artifact: Artifact) -> ArtifactRef:
    return ArtifactRef(name=artifact.name, size_bytes=artifact.size_bytes, sha256=artifact.sha256)


def _why(error: BaseException, what: str) -> str:
    log.error("evidence.not_kept", of=what, error=_text(error))
    return f"the object store did not take it: {_text(error)}"


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, JetcrewError) else "it did not answer in time"
