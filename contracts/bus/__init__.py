"""The one binding to NATS: everything else speaks to this package and knows nothing of the client library."""

from contracts.bus.apply import apply_consumer, apply_topology, remove_consumer
from contracts.bus.artifacts import Artifacts
from contracts.bus.connection import Bus, connect
from contracts.bus.deadletter import move_exhausted, redrive
from contracts.bus.following import Following
from contracts.bus.kv import Bucket
from contracts.bus.lease import Lease
from contracts.bus.ledger import Ledger
from contracts.bus.messages import (
    ACTOR,
    ANSWERS,
    CAUSE,
    MSG_ID,
    TRACEPARENT,
    Delivery,
    Expect,
    Held,
    Message,
    Receipt,
    Stored,
    header,
)
from contracts.bus.objects import Artifact, Source
from contracts.bus.publish import StreamRefused
from contracts.bus.pull import ConsumerGone, Pull
from contracts.bus.reads import ApiRefused
from contracts.bus.records import Records

__all__ = [
    "ACTOR",
    "ANSWERS",
    "CAUSE",
    "MSG_ID",
    "TRACEPARENT",
    "ApiRefused",
    "Artifact",
    "Artifacts",
    "Bucket",
    "Bus",
    "ConsumerGone",
    "Delivery",
    "Expect",
    "Following",
    "Held",
    "Lease",
    "Ledger",
    "Message",
    "Pull",
    "Receipt",
    "Records",
    "Source",
    "Stored",
    "StreamRefused",
    "apply_consumer",
    "apply_topology",
    "connect",
    "header",
    "move_exhausted",
    "redrive",
    "remove_consumer",
]
