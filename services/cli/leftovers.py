"""Workers that a `jetcrew run` made and could not delete, because it was killed."""

import os
import socket

from contracts.bus import Bus
from contracts.errors import JetcrewError
from contracts.topology import WORKER
from contracts.worker import DeleteWorker, WorkerRecord
from services.cli.link import call
from services.kit.crew import process_started

OWNER = "run-owner"
"""Label of a worker that is to go with the process that made it: `HOST PID STARTED`."""


def owner_of_this_process() -> str:
    """The label's value for workers that this process makes."""
    return f"{socket.gethostname()} {os.getpid()} {process_started(os.getpid())}"


def orphaned(owner: str) -> bool:
    """Whether the process that a label names has ended. Of other hosts nothing is known."""
    host, _, process = owner.partition(" ")
    pid, _, started = process.partition(" ")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    return str(process_started(int(pid))) != started


async def sweep(bus: Bus) -> None:
    """Have the orphaned ones deleted; what cannot be now is tried by the next run."""
    for name, held in (await bus.bucket(WORKER, WorkerRecord).list()).items():
        record = held.value
        owner = record.spec.labels.get(OWNER)
        if owner is None or record.state in {"stopping", "stopped"} or not orphaned(owner):
            continue
        try:
            await call(bus, "worker", "delete", DeleteWorker(name=name), wait=0.1, budget=2)
        except JetcrewError:
            continue
