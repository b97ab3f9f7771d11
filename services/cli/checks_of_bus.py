"""The part of `jetcrew doctor` that needs a connection: JetStream, what is on it, the manager."""

from collections.abc import AsyncIterator
from typing import Any, Literal

from msgspec import Struct

from contracts.bus import ApiRefused, Bus
from contracts.bus.apply import bucket_config, consumer_config, stream_config
from contracts.errors import JetcrewError, NotThere
from contracts.topology import Topology
from services.cli.link import status_of

API_LEVEL = 2
"""Of JetStream: what direct gets in batches need."""
NOBODY = "nobody-by-this-name"


class Finding(Struct, frozen=True):
    """What one check found."""

    check: str
    status: Literal["ok", "note", "wrong"]
    detail: str
    do: str = ""
    """The next step, unless all is well."""


async def examine_bus(bus: Bus, *, replicas: int) -> AsyncIterator[Finding]:
    """JetStream, the topology, the manager."""
    try:
        info = await bus.api("INFO", timeout=5)
    except JetcrewError as error:
        yield Finding(
            "jetstream", "wrong", str(error), "start the server with JetStream (jetcrew up does)"
        )
        return
    level = int(info.get("api", {}).get("level", 0))
    if level < API_LEVEL:
        yield Finding("jetstream", "wrong", f"API level {level}", "use nats-server 2.11 or newer")
        return
    yield Finding("jetstream", "ok", f"API level {level}")
    problems = [problem async for problem in drift(bus, Topology(bus.topology.prefix, replicas))]
    if problems:
        yield Finding(
            "topology",
            "wrong",
            "; ".join(problems[:5]),
            "restart the manager: it applies the topology, or says what it cannot change",
        )
    else:
        yield Finding(
            "topology", "ok", "streams, buckets and consumers are as this version needs them"
        )
    yield await _manager(bus)


async def drift(bus: Bus, topology: Topology) -> AsyncIterator[str]:
    """Where the server differs from the topology."""
    wanted: list[tuple[str, dict[str, Any]]] = [
        *((f"STREAM.INFO.{s.name}", stream_config(s, topology)) for s in topology.streams),
        *((f"STREAM.INFO.{b.stream}", bucket_config(b, topology)) for b in topology.buckets),
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
        return Finding("manager", "ok", "it answers")
    except JetcrewError as error:
        return Finding(
            "manager",
            "wrong",
            str(error),
            "start it (jetcrew up), or look into logs/manager.log in the state directory",
        )
    return Finding("manager", "ok", "it answers")
