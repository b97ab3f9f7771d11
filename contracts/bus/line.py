"""The line to the server: connects, reconnects for ever, and notices its own death."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog
from nats.errors import Error as NatsError

from contracts.bus.client import QuickClient
from contracts.errors import BusUnavailable, Denied

log = structlog.get_logger(__name__)

PING_EVERY = 10
"""Seconds; two unanswered pings count as a dead connection."""
BUFFER_BYTES = 8 << 20
"""What may wait to be sent while there is no connection."""
WATCH_EVERY = 0.5
"""Seconds between two looks at whether the client still reads."""
WAITS = (0.25, 2.0)
"""Seconds between two attempts to reconnect: at first, and when the server has been away for a while."""
A_WHILE = 10.0
"""Seconds."""


class Line:
    """One connection of the client library, with what that library leaves to its users."""

    def __init__(self) -> None:
        self.client = QuickClient()
        self.closed = asyncio.Event()
        self.on_reconnect: list[Callable[[], None]] = []
        self._last_error = ""
        self._ending = False
        self._watching: asyncio.Task[None] | None = None

    def why_closed(self) -> str:
        """A sentence for whoever finds it closed."""
        return f"the connection was closed: {self._last_error or 'by the server'}"

    async def open(self, url: str, options: dict[str, Any], patience: float | None) -> None:
        """Connect, within `patience` seconds or trying for ever.

        Raises:
            BusUnavailable: no server in that time.
            Denied: the server does not take the credentials.
        """
        refused = asyncio.Event()

        async def failed(error: Exception) -> None:
            self._last_error = str(error) or type(error).__name__
            if "authorization" in self._last_error.lower():
                refused.set()
            if "permissions violation" in self._last_error.lower():
                log.warning("bus.denied", error=self._last_error)

        connecting = asyncio.get_running_loop().create_task(
            self.client.connect(
                url,
                error_cb=failed,
                closed_cb=self._on_closed,
                reconnected_cb=self._on_reconnected,
                disconnected_cb=self._on_disconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=WAITS[0],  # type: ignore[arg-type]  # seconds may be a fraction
                connect_timeout=5,
                ping_interval=PING_EVERY,
                max_outstanding_pings=2,
                pending_size=BUFFER_BYTES,
                **options,
            )
        )
        refusal = asyncio.get_running_loop().create_task(refused.wait())
        try:
            await asyncio.wait(
                {connecting, refusal}, timeout=patience, return_when="FIRST_COMPLETED"
            )
            if refused.is_set():
                raise Denied(f"{url} does not take these credentials: {self._last_error}")
            if not connecting.done():
                raise BusUnavailable(
                    f"no NATS server answers at {url}: {self._last_error or 'no answer'}"
                )
            await connecting
            await self._let_in(url)
        except (NatsError, OSError) as error:
            raise BusUnavailable(f"cannot connect to {url}: {error}") from None
        finally:
            refusal.cancel()
            await _cancelled(connecting)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _let_in(self, url: str) -> None:
        """A server that takes its time to refuse is taken for a welcome by the library: ask it something."""
        with contextlib.suppress(NatsError, TimeoutError):
            await self.client.flush(timeout=10)
        if self.client.is_closed:
            raise Denied(f"{url} does not take these credentials: {self.client.last_error}")

    async def close(self) -> None:
        """Send what waits, then close."""
        self._ending = True
        if self._watching is not None:
            self._watching.cancel()
        if self.client.is_closed:
            return
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if self.client.is_connected:
                await self.client.flush(timeout=5)
        reconnecting = self.client._reconnection_task  # noqa: SLF001  # closing does not wait for it
        with contextlib.suppress(NatsError, OSError):
            await self.client.close()
        if reconnecting is not None:
            await _cancelled(reconnecting)

    async def _on_closed(self) -> None:
        if not self._ending:
            self._last_error = self._last_error or str(self.client.last_error)
            log.error("bus.closed", error=self._last_error)
        self.closed.set()
        self._call()

    async def _on_reconnected(self) -> None:
        log.info("bus.reconnected")
        self._call()

    async def _on_disconnected(self) -> None:
        if not self._ending:
            log.warning("bus.disconnected", error=self._last_error)

    def _call(self) -> None:
        for call in list(self.on_reconnect):
            call()

    async def _watch(self) -> None:
        """The client's read loop can die of an error while it calls itself connected: then reconnect."""
        away = 0.0
        while not self.client.is_closed:
            await asyncio.sleep(WATCH_EVERY)
            away = 0.0 if self.client.is_connected else away + WATCH_EVERY
            self.client.options["reconnect_time_wait"] = WAITS[away > A_WHILE]
            reading = self.client._reading_task  # noqa: SLF001  # there is no public way to see this
            if self.client.is_connected and reading is not None and reading.done():
                log.error("bus.reading_stopped")
                await self.client.force_reconnect()


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel until it is heeded: the library loses a cancellation that meets a refused connection, and what
    it leaves running would keep the process from ending."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
