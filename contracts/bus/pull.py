"""Pulling from a durable consumer: overlapping requests, idle heartbeats, new requests after a reconnect."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

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


class Pull:
    """The messages of one consumer, one at a time. Made by `Bus.pull`, which enters and leaves it.

    It ends by flag (`stop`), not by cancellation: before Python 3.12 `asyncio.wait_for`, which the
    client library is built on, loses a cancellation that meets a message.
    """

    def __init__(
        self, client: Client, stream: str, consumer: str, *, batch: int, stop: asyncio.Event
    ) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._batch = batch
        self._stop = stop
        self._subscription: Subscription | None = None
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
            self._subscription._pending_queue.put_nowait(Msg(self._client, headers=_WAKE))  # noqa: SLF001  # as below

    def __aiter__(self) -> "Pull":
        return self

    async def __anext__(self) -> Delivery:
        while not self._stop.is_set():
            if self._client.is_closed:
                raise BusClosed(f"the connection closed while pulling from {self._name}")
            if self._asked <= self._batch // 2 and self._client.is_connected:
                await self._ask()
            if (message := self._at_once() or await self._waited_for()) is None:
                continue
            headers = message.headers
            if headers is None or "Status" not in headers:
                self._asked -= 1
                return Delivery(
                    self._client,
                    message.subject,
                    message.data,
                    headers or NO_HEADERS,
                    message.reply,
                )
            await self._heed(headers)
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

    def _at_once(self) -> Msg | None:
        """The next message of any kind, if one is there.

        Taken from the subscription's own queue: the library's ways to it make a task and a timer, or wake
        up another task, for each message, which is most of what consuming costs.
        """
        subscription = self._subscription
        assert subscription is not None
        queue = subscription._pending_queue  # noqa: SLF001  # see above
        return None if queue.empty() else self._taken(subscription, queue.get_nowait())

    async def _waited_for(self) -> Msg | None:
        """The next message; None when the server has been silent for too long."""
        subscription = self._subscription
        assert subscription is not None
        try:
            async with asyncio.timeout(2 * HEARTBEAT):
                return self._taken(subscription, await subscription._pending_queue.get())  # noqa: SLF001
        except TimeoutError:
            self._asked = 0
            return None

    @staticmethod
    def _taken(subscription: Subscription, message: Msg) -> Msg:
        subscription._pending_size -= len(message.data)  # noqa: SLF001  # what the library's ways do
        subscription._pending_queue.task_done()  # noqa: SLF001
        return message

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
