"""What all keepers of a node share, and what they start from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.asks import Boot
from contracts.codec import encode
from contracts.errors import NotThere
from contracts.ids import WorkerId
from contracts.worker import WorkerRecord
from services.worker_manager.capacity import Capacity
from services.worker_manager.commands import Commands
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.runtimes import Runtime, UnitSpec
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.turns import Turns
from services.worker_manager.warm import WarmPool

EnsureImage = Callable[[WorkerRecord], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all keepers of a node share."""

    crew: Crew
    credentials: Credentials
    commands: Commands
    settings: ManagerSettings
    runtimes: dict[str, Runtime]
    ensure_image: EnsureImage
    open_bus: Callable[[WorkerRecord], Awaitable[None]]
    """Makes the worker's way to the bus, where its runtime needs one."""
    close_bus: Callable[[WorkerId], Awaitable[None]]
    capacity: Callable[[], Awaitable[Capacity]]
    """What this node has room for."""
    turns: Turns
    last_beat: dict[WorkerId, float]
    warm: WarmPool


async def unit_spec(
    around: Surroundings, record: WorkerRecord, runtime: Runtime, creds: str, ctl: str
) -> UnitSpec:
    """What to start for a worker, its boot files in it.

    Raises:
        InvalidMessage: no such agent.
        NotThere: a secret it names is gone.
    """
    spec, settings = record.spec, around.settings
    layout = runtime.layout(record.name, spec.agent)
    boot = Boot(
        worker=record.name,
        incarnation=record.incarnation,
        bus=layout.bus,
        ctl_nonce=ctl,
        agent_file=layout.agent_file,
        workspace=layout.workspace,
        home=layout.home,
        path=layout.path,
        instructions=spec.instructions,
        env=spec.env,
        secrets=spec.secrets,
        output_bytes=spec.limits.output_mb << 20,
        bus_grace=settings.bus_grace,
        prefix=settings.prefix,
        repository=spec.repository,
        repository_bytes=spec.limits.repository_mb << 20,
        trust_repository=spec.trust_repository,
    )
    files = {"boot.json": encode(boot), "worker.creds": creds.encode()}
    for name in spec.secrets:
        value = await around.credentials.secret(record.name, name)
        if value is None:
            raise NotThere(f'the secret "{name}" is gone')
        files[f"secrets/{name}"] = value.encode()
    return UnitSpec(
        worker=record.name,
        incarnation=record.incarnation,
        agent=spec.agent,
        image=record.image,
        limits=spec.limits,
        files=files,
        capabilities=tuple(spec.capabilities),
        network=spec.network,
    )
