"""Before a worker's unit starts: what it needs on the bus, and what it is told."""

from msgspec.structs import replace

from contracts.asks import Boot
from contracts.bus import apply_consumer
from contracts.codec import encode
from contracts.errors import NotThere
from contracts.worker import WorkerRecord
from services.worker_manager.credentials import Issued
from services.worker_manager.engine_door.policy import environment
from services.worker_manager.runtimes import Runtime, UnitSpec
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.waits import together

HEARTBEAT = 5.0
"""Seconds between two heartbeats, unless silence is to be noticed sooner than that allows."""


async def prepare(around: Surroundings, record: WorkerRecord, runtime: Runtime) -> Issued | None:
    """Clear away what an earlier start left, make the worker's way to the bus, its empty queue and its
    credential; None when it is not to start any more.

    Raises:
        EngineUnavailable, BusUnavailable
    """
    name, crew = record.name, around.crew
    issued: Issued | None = None

    async def way() -> None:
        if await runtime.find(name) is not None:  # of a start that did not get far
            await around.evidence.of_unit(record, record.reason)
        await around.close_engine(record)
        await runtime.remove(name, keep_volumes=True)
        await around.open_bus(record)

    async def queue() -> None:
        await apply_consumer(crew.bus, crew.bus.topology.run_consumer(name))

    async def emptied() -> None:
        await crew.bus.purge("JC_RUN", crew.bus.subjects.run(name))

    async def credential() -> None:
        nonlocal issued
        await around.credentials.revoke(record)
        made = await around.credentials.issue(record)

        def begin(record: WorkerRecord) -> WorkerRecord | None:
            new = replace(
                record,
                user_key=made.user_key,
                credential_until=made.until,
                units=record.units + 1,
            )
            return new if record.state == "starting" else None

        if await crew.workers.change(name, begin) is not None:
            issued = made

    await together(way(), queue(), emptied(), credential())
    return issued


async def unit_spec(
    around: Surroundings, record: WorkerRecord, runtime: Runtime, issued: Issued
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
        ctl_nonce=issued.ctl,
        agent_file=layout.agent_file,
        workspace=layout.workspace,
        home=layout.home,
        path=layout.path,
        instructions=spec.instructions,
        env=environment(spec) | spec.env,
        secrets=spec.secrets,
        output_bytes=spec.limits.output_mb << 20,
        heartbeat_every=min(HEARTBEAT, settings.silence / 3),
        bus_grace=settings.bus_grace,
        prefix=settings.prefix,
        repository=spec.repository,
        repository_bytes=spec.limits.repository_mb << 20,
        trust_repository=spec.trust_repository,
    )
    files = {"boot.json": encode(boot), "worker.creds": issued.creds.encode()}
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
