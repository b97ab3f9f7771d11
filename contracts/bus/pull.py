"""Pulling from a durable consumer: overlapping requests, idle heartbeats, new requests after a reconnect."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from contracts.bus.client import QuickClient
from contracts.bus.messages import NO_HEADERS, Delivery
from contracts.errors import BusClosed, JetcrewError

EXPIRES = 30.0
"""Seconds a pull request stays open. Below the two minutes that a service import allows for answers."""
HEARTBEAT = 5.0
"""Seconds between the server's idle heartbeats; twice that in silence means the request is lost."""

_WAKE = {"Status": "wake"}
"""Headers of a message of our own that interrupts the wait for the server's."""


class ConsumerGone(JetcrewError):
    """The consumer was deleted, or never was."""


class _Arrivals(deque[Msg]):
    """What has come and is not taken yet; stands in for a subscription's queue.

    The library's ways to that queue make a task and a timer, or wake up another task, for each message, and
    the queue itself keeps accounts that nobody reads: together most of what consuming costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._some: asyncio.Future[None] | None = None

    def put_nowait(self, message: Msg) -> None:
        """What the library calls."""
        self.append(message)
        if self._some is not None and not self._some.done():
            self._some.set_result(None)

    def qsize(self) -> int:
        """What the library counts as pending."""
        return len(self)

    async def some(self) -> None:
        """Return when there is one. For a single waiter."""
        if not self:
            self._some = asyncio.get_running_loop().create_future()
            await self._some


class Pull:
    """The messages of one consumer, one at a time. Made by `Bus.pull`, which enters and leaves it.

    It ends by flag (`stop`), not by cancellation: before Python 3.12 `asyncio.wait_for`, which the
    client library is built on, loses a cancellation that meets a message.
    """

    def __init__(
        self, client: QuickClient, stream: str, consumer: str, *, batch: int, stop: asyncio.Event
    ) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._batch = batch
        self._stop = stop
        self._subscription: Subscription | None = None
        self._arrivals = _Arrivals()
        self._asked = 0  # messages asked for that have not come
        self._requests = 0
        self._inbox = ""

    def kick(self) -> None:
        """Forget the open requests and ask anew; called after a reconnect, and to notice `stop`."""
        self._asked = 0
        self._wake()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["Pull"]:
        """Subscribe for as long as the block lasts."""
        self._inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(
            f"{self._inbox}.*", pending_msgs_limit=512 * 1024
        )
        subscription._pending_queue = cast("asyncio.Queue[Msg]", self._arrivals)  # noqa: SLF001  # see there
        self._subscription = subscription
        stopper = asyncio.get_running_loop().create_task(self._until_stopped())
        try:
            yield self
        finally:
            self._subscription = None
            stopper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopper
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        self._wake()

    def _wake(self) -> None:
        if self._subscription is not None:
            self._arrivals.put_nowait(Msg(self._client, headers=_WAKE))

    def __aiter__(self) -> "Pull":
        return self

    async def __anext__(self) -> Delivery:
        while not self._stop.is_set():
            if self._client.is_closed:
                raise BusClosed(f"the connection closed while pulling from {self._name}")
            if self._asked <= self._batch // 2 and self._client.is_connected:
                await self._ask()
            if not self._arrivals and not await self._waited():
                continue
            message = self._arrivals.popleft()
            if (headers := message.headers) is not None and "Status" in headers:
                await self._heed(headers)
                continue
            self._asked -= 1
            self._subscription._pending_size -= len(message.data)  # type: ignore[union-attr]  # noqa: SLF001  # what the library's ways do
            return Delivery(
                self._client, message.subject, message.data, headers or NO_HEADERS, message.reply
            )
        raise StopAsyncIteration

    async def _ask(self) -> None:
        count = self._batch - self._asked
        self._requests += 1
        self._asked += count
        request = {
            "batch": count,
            "expires": int(EXPIRES * 1e9),
            "idle_heartbeat": int(HEARTBEAT * 1e9),
        }
        await self._client.publish(
            self._subject, json.dumps(request).encode(), reply=f"{self._inbox}.{self._requests}"
        )

    async def _waited(self) -> bool:
        """Whether something came before the server had been silent for too long."""
        try:
            async with asyncio.timeout(2 * HEARTBEAT):
                await self._arrivals.some()
        except TimeoutError:
            self._asked = 0
        return bool(self._arrivals)

    async def _heed(self, headers: dict[str, str]) -> None:
        """Obey a status message: heartbeats, the end of a request, a consumer that is gone."""
        if headers is _WAKE:
            return
        status, description = headers["Status"], headers.get("Description", "")
        left = int(headers.get("Nats-Pending-Messages", 0))
        self._asked = max(0, self._asked - left)
        if status == "409" and "Deleted" in description:
            raise ConsumerGone(f"consumer {self._name}: {description}")
        if status == "400":
            raise ConsumerGone(f"pulling from {self._name} was refused: {description}")
        if status == "503" or (
            status == "409" and ("Leadership" in description or "Shutdown" in description)
        ):
            self._asked = 0
            await asyncio.sleep(0.25)
