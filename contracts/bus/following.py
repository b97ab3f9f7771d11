"""What of a bucket is of interest, kept up to date by reading what has changed since the last time.

A bucket holds one message a key, and each change of a key stores a higher sequence than all before it. So one
read from the last sequence on finds every change there was, and costs what has changed, not what there is. It
is a list and no hint: nothing has to be heard of, and whoever died in between has left what it wrote.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import structlog

from contracts.bus import reads
from contracts.bus.kv import EVERYTHING, PAGE, Bucket
from contracts.bus.messages import Held, Stored
from contracts.errors import BusUnavailable, InvalidMessage

log = structlog.get_logger(__name__)

T = TypeVar("T")
S = TypeVar("S")

ANEW_EVERY = 3600.0
"""Seconds after which all is read anew, in case that keys went without a trace."""


class Following(Generic[T, S]):
    """What `keep` makes of a bucket's values; those of which it makes None are not kept.

    Never older than the request it serves. A value that does not decode is left out, and logged.
    """

    def __init__(
        self,
        bucket: Bucket[T],
        keep: Callable[[Held[T]], S | None],
        *,
        anew_every: float = ANEW_EVERY,
        patience: float = 10.0,
    ) -> None:
        """`patience` is how many seconds each read may take."""
        self._bucket = bucket
        self._keep = keep
        self._every = anew_every
        self._patience = patience
        self._kept: dict[str, S] = {}
        self._last: Stored | None = None
        self._anew_at = 0.0
        self._reads = 0
        self._reading = asyncio.Lock()
        bucket.bus.on_reconnect(self._forget)

    def _forget(self) -> None:
        """It may be another server, with another past."""
        self._anew_at = 0.0

    async def now(self) -> Mapping[str, S]:
        """All that is kept by key, as it is now. The next call may change it: copy what an await comes before.

        Raises:
            BusUnavailable: the bus does not answer in time.
        """
        before = self._reads
        async with self._reading:
            if self._reads <= before:  # else somebody read it all after we asked
                if not self._bucket.bus.connected:
                    raise BusUnavailable("there is no connection to the NATS server")
                self._reads += 1
                if time.monotonic() >= self._anew_at or not await self._go_on():
                    await self._read_anew()
        return self._kept

    async def _go_on(self) -> bool:
        """Read what has changed; False when this is not the bucket that was read before."""
        if (last := self._last) is None:
            return False
        page = await self._page(after=last.seq - 1)
        # the last message that was read is still there, unless its key has changed, which is a later one
        if not page or (page[0].seq == last.seq and page[0].at != last.at):
            return False
        if page[-1].seq > last.seq:
            self._last = await self._read(page, self._kept)
        return True

    async def _read_anew(self) -> None:
        kept: dict[str, S] = {}
        self._last = None  # until all of it is read
        self._anew_at = time.monotonic() + self._every
        self._last = await self._read(await self._page(after=0), kept)
        self._kept = kept

    async def _read(self, page: list[Stored], kept: dict[str, S]) -> Stored | None:
        last = None
        while page:
            for stored in page:
                self._apply(stored, kept)
            last = page[-1]
            page = await self._page(after=last.seq)
        return last

    async def _page(self, *, after: int) -> list[Stored]:
        bucket = self._bucket
        return await reads.page(
            bucket.bus, bucket.stream, EVERYTHING,
            after=after, limit=PAGE, patience=self._patience,
        )  # fmt: skip

    def _apply(self, stored: Stored, kept: dict[str, S]) -> None:
        key = stored.subject[len(self._bucket.subject("")) :]
        kept.pop(key, None)
        try:
            held = self._bucket.held(stored)
        except InvalidMessage as error:
            log.warning("record.unreadable", bucket=self._bucket.name, key=key, error=str(error))
            return
        if held is not None and (shown := self._keep(held)) is not None:
            kept[key] = shown
