"""The one consume loop: decode and handle, then acknowledge after the durable outcome.

What a handler's end means:

    returns            done            → ack (confirmed, unless the consumer's work can be done twice)
    raises Retry       not now         → nak with that delay
    raises InvalidMessage, Refused     → dead letter, then term
    raises other       a bug           → traceback, nak with a delay; the delivery budget decides
    BusClosed          the end         → the loop ends, and the process with it
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING

import structlog
from nats.errors import Error as NatsError

from contracts.bus.deadletter import bury
from contracts.bus.messages import Delivery
from contracts.errors import (
    BusClosed,
    BusUnavailable,
    InvalidMessage,
    JetcrewError,
    Refused,
    Retry,
)
from contracts.log import at_hand
from contracts.topology import Consumer

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

Handle = Callable[[Delivery], Awaitable[None]]
Key = Callable[[Delivery], Hashable]
BUG_DELAYS = (1.0, 5.0, 15.0, 30.0)
"""Seconds before the next delivery after a handler's first, second, … failure."""


class Consumption:
    """One run of the loop. Messages of equal `key` are handled one after the other, in order."""

    def __init__(
        self, bus: "Bus", consumer: Consumer, handle: Handle, *,
        stop: asyncio.Event, concurrency: int, key: Key | None, confirm: bool, batch: int,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._consumer = consumer
        self._handle = handle
        self._stop = stop
        self._concurrency = concurrency
        self._key = key
        self._confirm = confirm
        self._batch = max(1, min(batch, consumer.max_ack_pending))
        self._deliveries: dict[int, Delivery] = {}
        self._tails: dict[Hashable, asyncio.Event] = {}

    async def run(self) -> None:
        """Until `stop`; what was begun is finished first.

        Raises:
            BusClosed: the connection is gone for good.
            ConsumerGone: the consumer does not exist.
        """
        done = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_alive(done), name=f"keep {self._consumer.name} alive")
                try:
                    await self._loop()
                finally:
                    done.set()
        except BaseExceptionGroup as errors:
            fatal = [e for e in errors.exceptions if not isinstance(e, asyncio.CancelledError)]
            raise (fatal[0] if len(fatal) == 1 else errors) from None

    async def _loop(self) -> None:
        async with self._bus.pull(self._consumer, stop=self._stop, batch=self._batch) as deliveries:
            if self._concurrency == 1:
                async for delivery in deliveries:
                    await self._deliver(delivery)
                return
            slots = asyncio.Semaphore(self._concurrency)
            async with asyncio.TaskGroup() as group:
                async for delivery in deliveries:
                    await slots.acquire()
                    before, mine = self._line_up(delivery)
                    group.create_task(self._in_turn(delivery, slots, before, mine))

    def _line_up(self, delivery: Delivery) -> tuple[asyncio.Event | None, asyncio.Event]:
        mine = asyncio.Event()
        if self._key is None:
            return None, mine
        key = self._key(delivery)
        before = self._tails.get(key)
        self._tails[key] = mine
        return before, mine

    async def _in_turn(
        self,
        delivery: Delivery,
        slots: asyncio.Semaphore,
        before: asyncio.Event | None,
        mine: asyncio.Event,
    ) -> None:
        self._deliveries[id(delivery)] = delivery
        try:
            if before is not None:
                await before.wait()
            await self._deliver(delivery)
        finally:
            self._deliveries.pop(id(delivery), None)
            mine.set()
            slots.release()
            if self._key is not None:
                key = self._key(delivery)
                if self._tails.get(key) is mine:
                    del self._tails[key]

    async def _deliver(self, delivery: Delivery) -> None:
        mark = id(delivery)
        self._deliveries[mark] = delivery
        bound = at_hand.set(delivery.correlation)
        try:
            await self._handle(delivery)
            await (delivery.ack_sync() if self._confirm else delivery.ack())
        except BusClosed:
            raise
        except Retry as why:
            log.info("delivery.postponed", why=str(why), after=why.after)
            await self._nak(delivery, why.after)
        except (InvalidMessage, Refused) as error:
            await self._reject(delivery, str(error))
        except (TimeoutError, BusUnavailable, NatsError) as error:
            log.warning("delivery.bus_unavailable", error=str(error) or type(error).__name__)
            await self._nak(delivery, 2.0)
        except Exception:
            log.exception("delivery.failed", deliveries=delivery.deliveries)
            await self._nak(delivery, BUG_DELAYS[min(delivery.deliveries, len(BUG_DELAYS)) - 1])
        finally:
            self._deliveries.pop(mark, None)
            at_hand.reset(bound)

    async def _nak(self, delivery: Delivery, after: float) -> None:
        try:
            await delivery.nak(after)
        except NatsError as error:  # it comes again by itself when its time is over
            log.debug("nak.lost", error=str(error))

    async def _reject(self, delivery: Delivery, reason: str) -> None:
        log.warning("delivery.rejected", reason=reason)
        try:
            await bury(self._bus, self._consumer, delivery, reason)
            await delivery.term(reason)
        except BusClosed:
            raise
        except (JetcrewError, NatsError) as error:
            log.warning("dead_letter.postponed", error=str(error))
            await self._nak(delivery, 2.0)

    async def _keep_alive(self, done: asyncio.Event) -> None:
        """Beat for all that is in hand, from a task that no handler can hold up but by blocking the loop."""
        every = self._consumer.ack_wait / 3
        while not done.is_set():
            due = time.monotonic() + every
            try:
                async with asyncio.timeout(every):
                    await done.wait()
            except TimeoutError:
                pass
            late = time.monotonic() - due
            if late > every:
                log.error("loop.blocked", seconds=round(late, 2), consumer=self._consumer.name)
            for delivery in list(self._deliveries.values()):
                try:
                    await delivery.in_progress()
                except NatsError as error:
                    log.debug("in_progress.lost", error=str(error))
