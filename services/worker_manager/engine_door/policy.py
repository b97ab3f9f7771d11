"""Who has a door to the engine, and what it tells the worker's agent."""

from contracts.errors import NotAllowed
from contracts.ids import NodeId
from contracts.worker import CreateWorker, RuntimeChoice, WorkerRecord
from services.worker_manager.runtimes.profile import BUS_DIRECTORY

CAPABILITY = "docker-cli"
SOCKET_NAME = "docker.sock"
"""Beside the socket that leads to the bus."""


def wants_door(spec: CreateWorker) -> bool:
    """Whether a worker is to have one."""
    return CAPABILITY in spec.capabilities


def check_access(spec: CreateWorker, runtime: RuntimeChoice, *, on: bool) -> None:
    """Raises:
    NotAllowed: the worker wants a door and there is none for it; the field and the setting are named.
    """
    if not wants_door(spec):
        return
    field = f"$.capabilities[{spec.capabilities.index(CAPABILITY)}]"
    if runtime == "process":
        raise NotAllowed(
            f'"{CAPABILITY}" is for runtime docker: a plain process would reach whatever engine the user '
            "of this host may use, unchecked",
            field=field,
        )
    if not on:
        raise NotAllowed(
            f'"{CAPABILITY}" gives a worker a part of the container engine, which is off; '
            "an operator turns it on with JETCREW_ENGINE__ACCESS=true",
            field=field,
        )


def environment(spec: CreateWorker) -> dict[str, str]:
    """Variables for the agent. Names of containers are shared by all workers of an engine, so compose is
    told to begin them with the worker's."""
    if not wants_door(spec):
        return {}
    return {
        "DOCKER_HOST": f"unix://{BUS_DIRECTORY}/{SOCKET_NAME}",
        "COMPOSE_PROJECT_NAME": spec.name,
    }


def has_door(record: WorkerRecord, node: NodeId) -> bool:
    """Whether a worker may have something on a node's engine."""
    return record.node == node and not record.ended and wants_door(record.spec)
