"""How much of a worker's limits its containers have: each states its share, and together they keep within."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.worker import Limits
from services.worker_manager.engine_door.refusal import Refusal

UNSAID = 4
"""A container that states no limit gets the worker's, divided by this."""
MIB = 1_048_576
LEAST_MEMORY = 6 * MIB
"""Bytes; an engine starts nothing with less."""
_LABELS = {
    "memory": "jetcrew.memory",
    "nano_cpus": "jetcrew.nano-cpus",
    "pids": "jetcrew.pids",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one container may use, as the engine counts."""

    memory: int
    """Bytes; swap is not added to it."""
    nano_cpus: int
    pids: int

    @classmethod
    def whole(cls, limits: Limits) -> "Share":
        """All that a worker's containers may use."""
        return cls(
            memory=limits.memory_mb * MIB, nano_cpus=int(limits.cpus * 1e9), pids=limits.pids
        )

    @classmethod
    def labelled(cls, labels: Mapping[str, str]) -> "Share":
        """What a container was given when it was made."""
        return cls(**{name: int(labels.get(label, 0)) for name, label in _LABELS.items()})

    def labels(self) -> dict[str, str]:
        """Kept with the container, where a list shows them."""
        return {label: str(getattr(self, name)) for name, label in _LABELS.items()}


def share(host: Mapping[str, Any], limits: Limits, cpus_there: float) -> Share:
    """What a new container gets: what it states, a quarter of the worker's limits where it states nothing.

    Raises:
        Refusal: more than the worker itself has.
    """
    whole = Share.whole(limits)
    cpus = min(whole.nano_cpus, int(cpus_there * 1e9))
    pids = host.get("PidsLimit", 0)
    made = Share(
        memory=host.get("Memory") or max(whole.memory // UNSAID, LEAST_MEMORY),
        nano_cpus=host.get("NanoCpus") or min(whole.nano_cpus // UNSAID, cpus),
        pids=pids if pids > 0 else max(whole.pids // UNSAID, 4),
    )
    check(made, (), limits)
    return made


def check(wanted: Share, others: Iterable[Share], limits: Limits) -> None:
    """Raises:
    Refusal: with the others, it is more than the worker's limits.
    """
    whole, taken = Share.whole(limits), tuple(others)
    for name, unit, option in (
        ("memory", MIB, "MiB of memory: --memory"),
        ("nano_cpus", 1e9, "cpus: --cpus"),
        ("pids", 1, "pids: --pids-limit"),
    ):
        asked, most = getattr(wanted, name), getattr(whole, name)
        left = most - sum(getattr(other, name) for other in taken)
        if asked > left:
            what, _, flag = option.partition(": ")
            raise Refusal(
                f"{asked / unit:g} {what} asked, {max(left, 0) / unit:g} left of this worker's "
                f"{most / unit:g}; set {flag}, or remove a container"
            )
