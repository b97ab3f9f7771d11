"""Nodes: hosts with a worker manager, as each tells of itself for as long as it is there."""

from msgspec import Struct

from contracts.ids import Instant, NodeId
from contracts.worker import Runtime


class NodeRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node, under its name in `jc_node`; expires unless its manager renews it."""

    node: NodeId
    owner: str
    """Host and state directory of its manager: no other one may bear the name meanwhile."""
    since: Instant
    """When its manager began."""
    version: str = ""
    runtimes: list[Runtime] = []
    """Where workers can run on it."""
    max_workers: int = 0
    """Workers it takes at once."""
    workers: int = 0
    """Workers it keeps now."""
