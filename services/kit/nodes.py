"""The nodes of a crew for whoever shows them: those that are there, and those that workers wait for."""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from contracts.ids import Instant, NodeId
from contracts.node import NodeRecord
from contracts.worker import Runtime


class NodeShown(Struct, frozen=True, kw_only=True):
    """A node as lists show it."""

    node: NodeId
    here: bool
    """Whether its manager is there; false: it has workers, and nothing is heard of it."""
    workers: int
    """Workers that are its own and have not ended."""
    max_workers: int | None
    runtimes: list[Runtime]
    version: str | None
    since: Instant | None
    """When its manager began."""


def shown_nodes(there: Iterable[NodeRecord], owners: Iterable[NodeId | None]) -> list[NodeShown]:
    """All nodes by name. `owners`: the node of each worker that has not ended."""
    counted = Counter(node for node in owners if node is not None)
    known = {record.node: record for record in there}
    return [_shown(node, known.get(node), counted[node]) for node in sorted({*known, *counted})]


def _shown(node: NodeId, record: NodeRecord | None, workers: int) -> NodeShown:
    return NodeShown(
        node=node,
        here=record is not None,
        workers=workers,
        max_workers=record.max_workers if record else None,
        runtimes=record.runtimes if record else [],
        version=record.version if record else None,
        since=record.since if record else None,
    )
