"""What is kept of ends: `jetcrew worker evidence`, `jetcrew task evidence`, `jetcrew task transcript`."""

import codecs
import sys
from typing import Any, TypeVar

import click
import msgspec

from contracts.bus import Artifacts
from contracts.codec import decode
from contracts.errors import NotThere
from contracts.events import ArtifactRef
from contracts.evidence import EVIDENCE_BYTES, TaskEvidence, UnitEvidence
from contracts.ids import is_token
from contracts.task import TaskRecord
from contracts.topology import WORKER
from contracts.worker import WorkerRecord
from services.cli import story
from services.cli.session import Session, print_json
from services.cli.tasks import record_of
from services.cli.text import Cleaner, clean, verdict_line

E = TypeVar("E", TaskEvidence, UnitEvidence)


async def worker_evidence(session: Session, options: dict[str, Any]) -> None:
    """Of the last unit that ended.

    Raises:
        NotThere: no such worker, or no evidence of it.
    """
    name = options["name"]
    held = await session.bus.bucket(WORKER, WorkerRecord).read(name) if is_token(name) else None
    if held is None:
        raise NotThere(f'there is no worker "{name}" (jetcrew worker list --all shows them)')
    record = held.value
    if record.evidence is None:
        why = record.not_kept or "none of its units has ended"
        raise NotThere(f'there is no evidence of worker "{name}": {why}')
    found = await _document(session, record.evidence, UnitEvidence)
    _show(found, record.evidence, {"reason": found.reason, "task": found.task}, options)


async def task_evidence(session: Session, options: dict[str, Any]) -> None:
    """Of one attempt.

    Raises:
        NotThere: no such task, or no evidence of it.
    """
    record = await record_of(session, options["task_id"])
    where = _of(record, options["attempt"], "evidence")
    found = await _document(session, where, TaskEvidence)
    facts = {
        "task": found.task,
        "attempt": found.attempt,
        "end": verdict_line(found.state, found.end),
        "session": found.end.agent_session,
        "transcript": found.end.transcript and _line(found.end.transcript),
    }
    _show(found, where, facts, options)


async def task_transcript(session: Session, options: dict[str, Any]) -> None:
    """To stdout as it comes, or into a file.

    Raises:
        NotThere: no such task, or no transcript of it.
        Damaged: what was written is not all of it.
    """
    record = await record_of(session, options["task_id"])
    where = _of(record, options["attempt"], "transcript")
    objects = Artifacts(session.bus)
    if options["output"] is not None:
        await objects.save(where.name, options["output"])
        return
    artifact = await objects.info(where.name)
    if artifact is None:
        raise NotThere(f"{where.name} is not kept any more")
    if not sys.stdout.isatty():
        async for piece in objects.read(artifact):
            click.echo(piece, nl=False)
        return
    decoder, cleaner = codecs.getincrementaldecoder("utf-8")("replace"), Cleaner()
    async for piece in objects.read(artifact):
        click.echo(cleaner.feed(decoder.decode(piece)), nl=False)
    click.echo(cleaner.rest(), nl=False)


def _of(record: TaskRecord, attempt: int | None, what: str) -> ArtifactRef:
    end = record.end_of(attempt or record.last_ended)
    found: ArtifactRef | None = getattr(end, what, None)
    if found is None:
        otherwise = "it has not ended" if end is None else "it did not run"
        why = (end.not_kept if end else "") or otherwise
        raise NotThere(f'there is no {what} of task "{record.id}": {why}')
    return found


async def _document(session: Session, where: ArtifactRef, kind: type[E]) -> E:
    return decode(await Artifacts(session.bus).get(where.name, limit=EVIDENCE_BYTES), kind)


def _show(
    found: TaskEvidence | UnitEvidence,
    where: ArtifactRef,
    facts: dict[str, Any],
    options: dict[str, Any],
) -> None:
    if options["as_json"]:
        print_json(msgspec.to_builtins(found))
        return
    end, used = found.unit_end, found.resources
    killed = "killed for want of memory" if end and end.oom else None
    code = None if end is None or end.exit_code is None else f"exit {end.exit_code}"
    told = [code, end.signal, killed] if end else []
    shown = facts | {
        "worker": f"{found.worker} ({found.incarnation})",
        "node": found.node,
        "image": found.image,
        "unit": found.unit and f"{found.unit[:12]} {' · '.join(filter(None, told))}",
        "memory": used and used.memory_peak_bytes and f"{used.memory_peak_bytes >> 20} MiB at most",
        "cpu": used and used.cpu_seconds and f"{used.cpu_seconds:g} s",
        "gathered": story.when(found.at),
        "missing": found.missing,
        "stored": _line(where),
    }
    for name, value in shown.items():
        if value:
            click.echo(f"{name:<10} {' '.join(clean(str(value)).split())}")
    if found.log:
        click.echo(f"\n{clean(found.log)}")


def _line(where: ArtifactRef) -> str:
    return f"{where.name}, {where.size_bytes:,} bytes, sha256 {where.sha256}"
