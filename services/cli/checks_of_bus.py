"""The part of `jetcrew doctor` that needs a connection: JetStream, what is on it, the manager."""

from collections.abc import AsyncIterator
from typing import Any

from contracts import __version__
from contracts.bus import ApiRefused, Bus
from contracts.bus.apply import (
    bucket_config,
    consumer_config,
    object_store_config,
    stream_config,
)
from contracts.bus.deadletter import STREAM as DEAD_LETTERS
from contracts.errors import JetcrewError, NotThere
from contracts.node import NodeRecord
from contracts.topology import NODE, WORKER, Topology
from contracts.worker import WorkerRecord
from services.cli.findings import NOTE, OK, WRONG, Finding
from services.cli.link import status_of
from services.kit.nodes import shown_nodes

API_LEVEL = 2
"""Of JetStream: what direct gets in batches need."""
NOBODY = "nobody-by-this-name"


async def examine_bus(bus: Bus, *, replicas: int) -> AsyncIterator[Finding]:
    """JetStream, the topology, the manager."""
    try:
        info = await bus.api("INFO", timeout=5)
    except JetcrewError as error:
        do = "use an operator's credentials (--creds), on a server with JetStream (jetcrew up has it)"
        yield Finding("jetstream", WRONG, str(error), do)
        return
    level = int(info.get("api", {}).get("level", 0))
    if level < API_LEVEL:
        yield Finding("jetstream", WRONG, f"API level {level}", "use nats-server 2.11 or newer")
        return
    yield Finding("jetstream", OK, f"API level {level}")
    problems = [problem async for problem in drift(bus, Topology(bus.topology.prefix, replicas))]
    if problems:
        yield Finding(
            "topology",
            WRONG,
            "; ".join(problems[:5]),
            "restart the manager: it applies the topology, or says what it cannot change",
        )
    else:
        yield Finding(
            "topology", OK, "streams, buckets and consumers are as this version needs them"
        )
    yield await _manager(bus)
    try:
        yield await _nodes(bus)
        yield await _dead_letters(bus)
    except JetcrewError as error:
        yield Finding("records", WRONG, str(error), "use an operator's credentials (--creds)")


async def drift(bus: Bus, topology: Topology) -> AsyncIterator[str]:
    """Where the server differs from the topology."""
    wanted: list[tuple[str, dict[str, Any]]] = [
        *((f"STREAM.INFO.{s.name}", stream_config(s, topology)) for s in topology.streams),
        *((f"STREAM.INFO.{b.stream}", bucket_config(b, topology)) for b in topology.buckets),
        *((f"STREAM.INFO.{o.stream}", object_store_config(o, topology)) for o in topology.objects),
        *((f"CONSUMER.INFO.{c.stream}.{c.name}", consumer_config(c)) for c in topology.consumers),
    ]
    for verb, config in wanted:
        name = verb.split(".INFO.")[1]
        try:
            present = (await bus.api(verb, timeout=5))["config"]
        except ApiRefused:
            yield f"{name} is missing"
            continue
        except JetcrewError as error:
            yield f"{name}: {error}"
            return
        for key, value in config.items():
            if _present(present, key, value) != value:
                yield f"{name}: {key} is {present.get(key)!r}, not {value!r}"


def _present(config: dict[str, Any], key: str, wanted: object) -> object:
    """A setting as the server tells it, which leaves out what is not set."""
    if key == "filter_subjects" and "filter_subject" in config:
        return [config["filter_subject"]]
    if key in config:
        return config[key]
    if isinstance(wanted, bool):
        return False
    return 0 if isinstance(wanted, int) else None


async def _manager(bus: Bus) -> Finding:
    try:
        await status_of(bus, NOBODY, wait=2, budget=3)
    except NotThere:
        return Finding("manager", OK, "it answers")
    except JetcrewError as error:
        return Finding(
            "manager",
            WRONG,
            str(error),
            "start it (jetcrew up), or look into logs/manager.log in the state directory",
        )
    return Finding("manager", OK, "it answers")


async def _nodes(bus: Bus) -> Finding:
    """Whether there is a host for workers, and whether one is missing that has some."""
    there = await bus.bucket(NODE, NodeRecord).list()
    workers = await bus.bucket(WORKER, WorkerRecord).list()
    owners = [held.value.node for held in workers.values() if not held.value.ended]
    nodes = shown_nodes([held.value for held in there.values()], owners)
    here = [node for node in nodes if node.here]
    if gone := [f"{node.node} ({node.workers} workers)" for node in nodes if not node.here]:
        text = f"nothing is heard of {', '.join(gone[:5])}"
        return Finding("nodes", WRONG, text, "start its manager, or delete its workers")
    if not here:
        text = "no host takes workers: each one waits in the line"
        return Finding("nodes", WRONG, text, "start a manager (jetcrew up)")
    if old := [f"{n.node} ({n.version or '?'})" for n in here if n.version != __version__]:
        text = f"other versions than {__version__}: {', '.join(old[:5])}"
        return Finding("nodes", NOTE, text, "bring all hosts to one version")
    return Finding("nodes", OK, ", ".join(f"{n.node} ({n.workers} workers)" for n in here[:5]))


async def _dead_letters(bus: Bus) -> Finding:
    count = int((await bus.api(f"STREAM.INFO.{DEAD_LETTERS}", timeout=5))["state"]["messages"])
    if not count:
        return Finding("dead letters", OK, "none")
    text = f"{count} that nobody could handle"
    return Finding("dead letters", NOTE, text, "jetcrew dlq list; then redrive or drop them")
