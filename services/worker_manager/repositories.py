"""Repositories that workers are to begin with: what is said of them, held against the object store."""

import asyncio
from datetime import datetime

import structlog
from msgspec.structs import replace

from contracts.bus import Artifacts, Bus
from contracts.errors import JetcrewError, NotThere, Refused
from contracts.ids import WorkerId
from contracts.repository import RepositorySource
from contracts.topology import OBJECTS
from contracts.worker import CreateWorker, Limits

CAPABILITY = "git"
"""What a worker needs to have a repository checked out in it."""
FORGETTING = 20.0
"""Seconds that dropping what was laid out may take."""

log = structlog.get_logger()


async def check(
    bus: Bus, worker: WorkerId, source: RepositorySource | None, limits: Limits
) -> None:
    """See that the bundle is laid out for this worker, and within its bound.

    Raises:
        NotThere, Refused: it is not.
    """
    if source is None:
        return
    field = "$.repository.bundle"
    stored = await Artifacts(bus).info(OBJECTS.handed_to(worker, source.bundle))
    if stored is None:
        raise NotThere(
            f'nothing called "{source.bundle}" is laid out for worker {worker!r}', field=field
        )
    bound = limits.repository_mb << 20
    if stored.size_bytes > bound:
        raise Refused(
            f"the repository is a bundle of {stored.size_bytes:,} bytes; worker {worker!r} takes "
            f"{bound:,} (limits.repository_mb)",
            field=field,
        )


def with_git(spec: CreateWorker) -> CreateWorker:
    """The worker with the tools for its repository."""
    if spec.repository is None or CAPABILITY in spec.capabilities:
        return spec
    return replace(spec, capabilities=[*spec.capabilities, CAPABILITY])


async def forget(bus: Bus, worker: WorkerId, *, before: datetime) -> None:
    """Drop what was laid out for a worker that is no more; what is younger is for the next of that name. A
    store that does not answer holds nobody up: what is left there ages out by itself."""
    artifacts = Artifacts(bus)
    try:
        async with asyncio.timeout(FORGETTING):
            for each in await artifacts.list(OBJECTS.all_handed_to(worker)):
                if each.at < before:
                    await artifacts.delete(each.name)
    except (JetcrewError, TimeoutError) as error:
        log.warning("repository.not_forgotten", worker=worker, error=str(error))
