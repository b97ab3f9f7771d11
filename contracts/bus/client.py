"""The client library's connection, with the headers of what comes in read faster."""

from functools import lru_cache

from nats.aio.client import Client

_SHORT = 64
"""Bytes of a header's name above which it is not remembered."""


class QuickClient(Client):
    """Reads headers as the library does: the last of equal names counts, what is no name is left out.

    The library looks at each character of each name, which is an eighth of what receiving a small
    message costs; names are few, so here each is looked at once.
    """

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        found = {}
        for line in raw.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if colon and (key := (_known if len(name) <= _SHORT else _read)(name)) is not None:
                found[key] = value.strip().decode("utf-8", "replace")
        return found

    async def answer(self, reply: str, payload: bytes = b"") -> None:
        """Publish to a reply subject that the server has given, which need not be looked at again.

        Raises:
            NatsError: as `publish` does.
        """
        if self._status != Client.CONNECTED:
            await self.publish(reply, payload)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        await self._send_command(b"PUB %b  %d\r\n%b\r\n" % (reply.encode(), len(payload), payload))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


def _read(name: bytes) -> str | None:
    """A header's name; None when it is none."""
    try:
        key = name.strip().decode("ascii")
    except UnicodeDecodeError:
        return None
    return None if any(map(str.isspace, key)) else key


_known = lru_cache(maxsize=1024)(_read)
