"""Messages a second: our bus beside the bare client library, Redis Streams and FastStream, in one run.

Server and Redis both write to disk before they acknowledge (`sync_interval: always`, `appendfsync always`).
Rounds of all contestants are interleaved, so that what the machine does otherwise hits all alike.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import BaseModel

from contracts.bus import Bus, Delivery, apply_consumer, connect
from contracts.codec import decode, encode
from contracts.log import configure
from contracts.topology import Consumer
from contracts.worker import CreateWorker
from tests.bench.table import Figure, Goal, report
from tests.support.servers import Server, running_server

COMMAND = CreateWorker(
    name="ada",
    agent="claude",
    capabilities=["git", "curl"],
    instructions="Be brief. Say what you did and what you left, and why.",
    env={"DEBUG": "1"},
    labels={"team": "core"},
)
BODY = encode(COMMAND)
SUBJECT = "jetcrew.rep.bench.ready"


class PydanticCommand(BaseModel):
    """The same message for the pydantic contestants."""

    name: str
    agent: str
    capabilities: list[str] = []
    instructions: str = ""
    env: dict[str, str] = {}
    labels: dict[str, str] = {}


async def rate(count: int, work: Callable[[], Awaitable[None]]) -> float:
    """Messages a second."""
    began = time.perf_counter()
    await work()
    return count / (time.perf_counter() - began)


class Publishing:
    """Publishes awaited one by one, and a hundred at a time."""

    def __init__(self, bus: Bus, bare: Client) -> None:
        self._bus = bus
        self._js = bare.jetstream()
        self._n = 0

    async def raw(self, count: int, window: int) -> None:
        async def one() -> None:
            self._n += 1
            await self._js.publish(SUBJECT, BODY, headers={"Nats-Msg-Id": f"r{self._n}"}, timeout=5)

        await _windows(one, count, window)

    async def ours(self, count: int, window: int) -> None:
        async def one() -> None:
            self._n += 1
            await self._bus.publish(SUBJECT, COMMAND, id=f"o{self._n}")

        await _windows(one, count, window)


async def _windows(one: Callable[[], Awaitable[None]], count: int, window: int) -> None:
    async def many() -> None:
        for _ in range(count // window):
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(window):
            group.create_task(many())


class Consuming:
    """The same stored messages, consumed in different ways. Each round has a consumer of its own."""

    def __init__(self, bus: Bus, bare: Client, count: int) -> None:
        self._bus = bus
        self._bare = bare
        self._count = count
        self._made = 0

    async def _consumer(self) -> Consumer:
        self._made += 1
        consumer = Consumer(
            stream="JC_REP", name=f"bench{self._made}", filters=(SUBJECT,), max_ack_pending=10_000
        )
        await apply_consumer(self._bus, consumer)
        return consumer

    async def raw_loop(self, use: Callable[[bytes], object] = bool) -> float:
        """The fastest that the library allows: overlapping pulls, and an ack for each message."""
        consumer = await self._consumer()
        client, got, done = self._bare, 0, asyncio.Event()
        inbox, subject = client.new_inbox(), f"$JS.API.CONSUMER.MSG.NEXT.JC_REP.{consumer.name}"
        request = json.dumps({"batch": 500, "expires": 30_000_000_000}).encode()

        async def take(message: Msg) -> None:
            nonlocal got
            if message.headers is not None and "Status" in message.headers:
                return
            use(message.data)
            await message.ack()
            got += 1
            if got % 250 == 0:
                await client.publish(subject, request, reply=inbox)
            if got == self._count:
                done.set()

        subscription = await client.subscribe(inbox, cb=take)

        async def work() -> None:
            await client.publish(subject, request, reply=inbox)
            await done.wait()

        try:
            return await rate(self._count, work)
        finally:
            await subscription.unsubscribe()
            await client.jetstream().delete_consumer("JC_REP", consumer.name)

    async def ours(self, *, confirm: bool = False) -> float:
        """The product's loop: decode, handler, ack."""
        consumer = await self._consumer()
        stop, got = asyncio.Event(), 0

        async def handle(delivery: Delivery) -> None:
            nonlocal got
            decode(delivery.data, CreateWorker)
            got += 1
            if got == self._count:
                stop.set()

        async def work() -> None:
            await self._bus.consume(
                consumer,
                handle,
                stop=stop,
                confirm=confirm,
                concurrency=64 if confirm else 1,
                batch=500,
            )

        try:
            return await rate(self._count, work)
        finally:
            await self._bus.client.jetstream().delete_consumer("JC_REP", consumer.name)

    async def fetch(self) -> float:
        """`fetch(100)` of the library's pull subscription, with decode and ack."""
        consumer = await self._consumer()
        js = self._bare.jetstream()
        subscription = await js.pull_subscribe_bind(consumer.name, "JC_REP")

        async def work() -> None:
            got = 0
            while got < self._count:
                for message in await subscription.fetch(min(100, self._count - got), timeout=5):
                    decode(message.data, CreateWorker)
                    await message.ack()
                    got += 1

        try:
            return await rate(self._count, work)
        finally:
            await js.delete_consumer("JC_REP", consumer.name)

    async def faststream(self, url: str, creds: Path) -> float:
        """FastStream's NATS broker: pull, batches of 100, pydantic."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from faststream.nats import NatsBroker, PullSub
        consumer = await self._consumer()
        broker = NatsBroker(
            url, user_credentials=str(creds), inbox_prefix="_INBOX.manager", logger=None
        )
        done, got = asyncio.Event(), 0

        @broker.subscriber(
            SUBJECT, stream="JC_REP", durable=consumer.name, pull_sub=PullSub(batch_size=100)
        )
        async def handle(message: PydanticCommand) -> None:
            nonlocal got
            got += 1
            if got == self._count:
                done.set()

        async def work() -> None:
            await broker.start()
            await done.wait()

        try:
            async with asyncio.timeout(120):
                return await rate(self._count, work)
        finally:
            await broker.stop()
            await self._bus.client.jetstream().delete_consumer("JC_REP", consumer.name)


class RedisStreams:
    """Redis Streams with pydantic: XREADGROUP of 100, validate, XACK each batch message by message."""

    def __init__(self, port: int) -> None:
        from redis.asyncio import Redis

        self._redis: Any = Redis(port=port)
        self._made = 0

    async def fill(self, count: int) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for _ in range(count):
            pipe.xadd("bench", {"body": BODY})
        await pipe.execute()

    async def consume(self, count: int) -> float:
        self._made += 1
        group = f"g{self._made}"
        await self._redis.xgroup_create("bench", group, id="0")

        async def work() -> None:
            got = 0
            while got < count:
                [(_, entries)] = await self._redis.xreadgroup(group, "c", {"bench": ">"}, count=100)
                acks = self._redis.pipeline(transaction=False)
                for number, fields in entries:
                    PydanticCommand.model_validate_json(fields[b"body"])
                    acks.xack("bench", group, number)
                    got += 1
                await acks.execute()

        return await rate(count, work)

    async def close(self) -> None:
        await self._redis.aclose()


@contextlib.asynccontextmanager
async def bare_client(server: Server) -> AsyncIterator[Client]:
    """The client library by itself, as its users get it."""
    client = await nats.connect(
        server.url, user_credentials=str(server.creds("manager")), inbox_prefix="_INBOX.manager"
    )
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def redis_server(directory: Path) -> AsyncIterator[RedisStreams | None]:
    """A Redis of our own on a free port; None where redis-server is not installed."""
    if shutil.which("redis-server") is None:
        yield None
        return
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
        "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    streams = RedisStreams(port)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield streams
    finally:
        await streams.close()
        process.terminate()
        await process.wait()


def codec(figures: dict[str, Figure], count: int) -> None:
    """Our codec beside bare msgspec, on a command."""
    bare_decode, bare_encode = (
        msgspec.json.Decoder(CreateWorker).decode,
        msgspec.json.Encoder().encode,
    )
    contestants: dict[str, Callable[[], object]] = {
        "decode, msgspec": lambda: bare_decode(BODY),
        "decode, ours": lambda: decode(BODY, CreateWorker),
        "encode, msgspec": lambda: bare_encode(COMMAND),
        "encode, ours": lambda: encode(COMMAND),
    }
    for name, work in contestants.items():
        began = time.perf_counter()
        for _ in range(count):
            work()
        figures[name].rounds.append((time.perf_counter() - began) / count * 1e6)


RATES = [
    "publish, raw", "publish, ours", "publish x100, raw", "publish x100, ours",
    "consume, raw pull loop", "consume, raw pull loop and msgspec decode", "consume, ours", "consume, ours, confirmed acks", "consume, fetch(100)",
    "consume, Redis Streams + pydantic", "consume, FastStream",
]  # fmt: skip
CODECS = ["decode, msgspec", "decode, ours", "encode, msgspec", "encode, ours"]
GOALS = [
    Goal("publish ≥ 0.9 x raw", "publish, ours", "publish, raw", 0.9),
    Goal("100 publishers ≥ 0.9 x raw", "publish x100, ours", "publish x100, raw", 0.9),
    Goal("consume ≥ 0.8 x raw pull loop", "consume, ours", "consume, raw pull loop", 0.8),
    Goal("consume ≥ 0.9 x raw pull loop that decodes", "consume, ours",
         "consume, raw pull loop and msgspec decode", 0.9),
    Goal("consume ≥ 2 x Redis Streams with pydantic", "consume, ours", "consume, Redis Streams + pydantic", 2.0),
    Goal("decode ≤ 1.2 x msgspec", "decode, ours", "decode, msgspec", 1.2, at_least=False),
    Goal("encode ≤ 1.2 x msgspec", "encode, ours", "encode, msgspec", 1.2, at_least=False),
]  # fmt: skip


async def run(rounds: int, count: int) -> bool:
    """All contestants, round after round."""
    figures = {name: Figure(name, "msg/s") for name in RATES} | {
        name: Figure(name, "µs") for name in CODECS
    }
    configure(level="error")
    with tempfile.TemporaryDirectory(prefix="jetcrew-bench-") as scratch:
        directory = Path(scratch)
        async with (
            running_server(directory, applied=True) as server,
            connect(
                server.url, name="bench", creds=server.creds("manager"), inbox_prefix="_INBOX.manager", patience=20
            ) as bus,
            bare_client(server) as bare,
            redis_server(directory) as redis,
        ):  # fmt: skip
            publishing, consuming = Publishing(bus, bare), Consuming(bus, bare, count)
            while (await bus.api("STREAM.INFO.JC_REP"))["state"]["messages"] < count:
                await publishing.raw(500, 100)
            if redis is None:
                figures["consume, Redis Streams + pydantic"].note = "redis-server is not installed"
            else:
                await redis.fill(count)
            few = max(200, count // 20)
            for n in range(rounds):
                print(f"round {n + 1} of {rounds}", file=sys.stderr)
                for name, work in (("raw", publishing.raw), ("ours", publishing.ours)):
                    for label, window in ((f"publish, {name}", 1), (f"publish x100, {name}", 100)):
                        began = time.perf_counter()
                        await work(few, window)
                        figures[label].rounds.append(few / (time.perf_counter() - began))
                figures["consume, raw pull loop"].rounds.append(await consuming.raw_loop())
                figures["consume, raw pull loop and msgspec decode"].rounds.append(
                    await consuming.raw_loop(msgspec.json.Decoder(CreateWorker).decode)
                )
                figures["consume, ours"].rounds.append(await consuming.ours())
                figures["consume, ours, confirmed acks"].rounds.append(
                    await consuming.ours(confirm=True)
                )
                figures["consume, fetch(100)"].rounds.append(await consuming.fetch())
                figures["consume, FastStream"].rounds.append(
                    await consuming.faststream(server.url, server.creds("manager"))
                )
                if redis is not None:
                    figures["consume, Redis Streams + pydantic"].rounds.append(
                        await redis.consume(count)
                    )
                codec(figures, 20_000)
    return report("bus", list(figures.values()), GOALS)


def main() -> int:
    """0 when every goal holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=5000, help="messages a round")
    options = parser.parse_args()
    return 0 if asyncio.run(run(options.rounds, options.count)) else 1


if __name__ == "__main__":
    sys.exit(main())
