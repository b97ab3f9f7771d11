"""Making a server's streams, consumers and buckets what the topology says."""

from typing import TYPE_CHECKING, Any

import structlog

from contracts.bus.reads import ApiRefused
from contracts.errors import TopologyDrift
from contracts.ids import number_of
from contracts.topology import Bucket, Consumer, ObjectStore, Stream, Topology

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

ABSENT = {10059, 10014}
"""JetStream: stream not found, consumer not found."""
FIXED = ("retention", "storage", "deny_delete", "deny_purge")
"""Settings of a stream that cannot be changed once it is made."""
_NS = 1_000_000_000


async def apply_topology(bus: "Bus") -> list[str]:
    """Create what is missing and update what may be updated; the names of what was touched.

    Doing it again changes nothing.

    Raises:
        TopologyDrift: something exists with settings that cannot be changed into ours.
    """
    topology = bus.topology
    touched = []
    for bucket in topology.buckets:
        touched += await _apply(bus, bucket_config(bucket, topology))
    for store in topology.objects:
        touched += await _apply(bus, object_store_config(store, topology))
    # the ledger before the door whose numbering looks at it
    for stream in sorted(topology.streams, key=lambda s: s.numbered_by is not None):
        touched += await _apply(
            bus, stream_config(stream, topology), numbered_by=stream.numbered_by
        )
    for consumer in topology.consumers:
        touched += await apply_consumer(bus, consumer)
    if touched:
        log.info("topology.applied", touched=touched)
    return touched


def stream_config(stream: Stream, topology: Topology) -> dict[str, Any]:
    """A stream's configuration in JetStream's own words."""
    config: dict[str, Any] = {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": stream.retention,
        "discard": stream.discard,
        "max_msgs": stream.max_msgs or -1,
        "max_msgs_per_subject": stream.max_msgs_per_subject or -1,
        "max_bytes": stream.max_bytes or -1,
        "max_age": int(stream.max_age * _NS),
        "max_msg_size": stream.max_msg_size or -1,
        "storage": "file",
        "num_replicas": topology.replicas,
        "duplicate_window": int(stream.duplicate_window * _NS),
        "allow_direct": True,
        "discard_new_per_subject": stream.discard_new_per_subject,
        "deny_delete": stream.deny_delete,
        "deny_purge": stream.deny_purge,
    }
    if stream.republish_to is not None:
        config["republish"] = {"src": stream.subjects[0], "dest": stream.republish_to}
    return config


def bucket_config(bucket: Bucket, topology: Topology) -> dict[str, Any]:
    """The configuration of a bucket's stream, as every client lays a bucket out."""
    config: dict[str, Any] = {
        "name": bucket.stream,
        "subjects": [f"$KV.{bucket.name}.>"],
        "retention": "limits",
        "discard": "new",
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "storage": "file",
        "num_replicas": topology.replicas,
        "duplicate_window": 120 * _NS,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "deny_purge": False,
        "allow_msg_ttl": True,
    }
    if bucket.per_key_ttl:
        config["subject_delete_marker_ttl"] = int(bucket.marker_ttl * _NS)
    if bucket.republished:
        config["republish"] = {
            "src": f"$KV.{bucket.name}.>",
            "dest": f"{topology.prefix}.kv.{bucket.name}.>",
        }
    return config


def object_store_config(store: ObjectStore, topology: Topology) -> dict[str, Any]:
    """The configuration of an object store's stream, as every client lays one out."""
    return {
        "name": store.stream,
        "subjects": list(store.subjects),
        "retention": "limits",
        "discard": "new",
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": store.max_bytes,
        "max_age": int(store.max_age * _NS),
        "max_msg_size": -1,
        "storage": "file",
        "num_replicas": topology.replicas,
        "duplicate_window": 120 * _NS,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": False,
        "deny_purge": False,
    }


def consumer_config(consumer: Consumer) -> dict[str, Any]:
    """A consumer's configuration in JetStream's own words."""
    config: dict[str, Any] = {
        "durable_name": consumer.name,
        "name": consumer.name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(consumer.ack_wait * _NS),
        "max_deliver": consumer.max_deliver,
        "max_ack_pending": consumer.max_ack_pending,
        "replay_policy": "instant",
    }
    if consumer.filters:
        config["filter_subjects"] = list(consumer.filters)
    return config


async def apply_consumer(bus: "Bus", consumer: Consumer) -> list[str]:
    """Make one consumer, or bring it to these settings.

    Raises:
        TopologyDrift: it cannot be brought there.
    """
    name = f"{consumer.stream}/{consumer.name}"
    wanted = consumer_config(consumer)
    verb = f"CONSUMER.INFO.{consumer.stream}.{consumer.name}"
    present = await _present(bus, verb)
    if present is not None and not _differing(wanted, present):
        return []
    request = {"stream_name": consumer.stream, "config": wanted}
    try:
        await bus.api(f"CONSUMER.DURABLE.CREATE.{consumer.stream}.{consumer.name}", request)
    except ApiRefused as error:
        raise TopologyDrift(
            f"consumer {name} cannot be brought to this version's settings: {error}"
        ) from error
    return [name]


async def remove_consumer(bus: "Bus", consumer: Consumer) -> None:
    """Delete a consumer; nothing happens when there is none."""
    try:
        await bus.api(f"CONSUMER.DELETE.{consumer.stream}.{consumer.name}")
    except ApiRefused as error:
        if error.err_code not in ABSENT:
            raise


async def _apply(
    bus: "Bus", wanted: dict[str, Any], *, numbered_by: str | None = None
) -> list[str]:
    name = wanted["name"]
    present = await _present(bus, f"STREAM.INFO.{name}")
    if present is None:
        if numbered_by is not None:
            wanted = wanted | {"first_seq": await _highest_number(bus, name, numbered_by) + 1}
        await bus.api(f"STREAM.CREATE.{name}", wanted)
        return [name]
    differing = _differing(wanted, present)
    if not differing:
        return []
    if fixed := [
        f"{k} is {present.get(k)!r}, not {wanted.get(k)!r}" for k in FIXED if k in differing
    ]:
        raise TopologyDrift(f"stream {name} was made with other settings: {'; '.join(fixed)}")
    try:
        await bus.api(f"STREAM.UPDATE.{name}", present | wanted)
    except ApiRefused as error:
        raise TopologyDrift(
            f"stream {name} cannot be brought to this version's settings: {error}"
        ) from error
    return [name]


async def _present(bus: "Bus", verb: str) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = (await bus.api(verb))["config"]
    except ApiRefused as error:
        if error.err_code in ABSENT:
            return None
        raise
    return config


def _differing(wanted: dict[str, Any], present: dict[str, Any]) -> set[str]:
    differing = {k for k, v in wanted.items() if present.get(k, _unset(v)) != v}
    filters = wanted.get("filter_subjects")
    if filters and len(filters) == 1 and present.get("filter_subject") == filters[0]:
        differing.discard("filter_subjects")
    return differing


def _unset(value: object) -> object:
    """What a setting is that the server leaves out."""
    if isinstance(value, bool):
        return False
    return 0 if isinstance(value, int) else None


async def _highest_number(bus: "Bus", stream: str, numbered_by: str) -> int:
    """The highest sequence that an id was ever made of; ids of a stream made anew must not repeat them."""
    highest = after = 0
    subject = (
        f"$KV.{numbered_by[3:]}.>"
        if numbered_by.startswith("KV_")
        else f"{bus.topology.prefix}.res.*"
    )
    while page := await bus.page(numbered_by, subject, after=after):
        after = page[-1].seq
        for stored in page:
            highest = max(highest, number_of(stored.subject.rpartition(".")[2]))
    if highest:
        log.info("stream.numbered", stream=stream, first=highest + 1)
    return highest
