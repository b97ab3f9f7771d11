"""Transcripts: all that an agent wrote in one attempt, made of the pieces that its wrapper published.

They are made here rather than handed over, so that there is one of an attempt whose worker was killed, too.
The wrapper has replaced secrets before it published.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from contracts.bus import Bus
from contracts.codec import decode
from contracts.errors import InvalidMessage
from contracts.reports import Output
from contracts.task import TaskRecord

TAIL = 65_536
"""Bytes of the end that are kept beside it."""
LONGEST_LINE = 1_048_576
"""Bytes of a line that is waited for before the other stream's text goes on."""


@dataclass
class Transcript:
    """One pass over an attempt's output: the lines of both streams, in the order in which they ended."""

    bus: Bus
    record: TaskRecord
    limit: int
    """Bytes; what comes after them is left out."""
    lost: int = 0
    """Pieces that never came."""
    cut: bool = False
    _tail: bytearray = field(default_factory=bytearray)

    def tail(self) -> str:
        """The end of what was read."""
        return self._tail.decode(errors="replace")

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes, as they are found; anew with each call."""
        left, self.lost, self.cut = self.limit, 0, False
        self._tail.clear()
        async for text in self._lines():
            data = text.encode("utf-8", "replace")
            if len(data) > left:
                data, self.cut = data[:left], True
            left -= len(data)
            if data:
                self._tail += data
                del self._tail[:-TAIL]
                yield data
            if self.cut:
                return

    async def _lines(self) -> AsyncIterator[str]:
        """A line of one stream is not put into the middle of one of the other."""
        open_lines = {"stdout": "", "stderr": ""}
        async for piece in self._pieces():
            text = open_lines[piece.stream] + piece.text
            whole, newline, rest = text.rpartition("\n")
            if len(rest) > LONGEST_LINE:
                whole, newline, rest = text, "", ""
            open_lines[piece.stream] = rest
            if whole or newline:
                yield whole + newline
        for rest in open_lines.values():
            if rest:
                yield rest

    async def _pieces(self) -> AsyncIterator[Output]:
        """Those of this run, each once."""
        subject = self.bus.subjects.output(self.record.worker, self.record.id)
        after, last = 0, 0
        while page := await self.bus.page("JC_OUT", subject, after=after):
            after = page[-1].seq
            for stored in page:
                try:
                    piece = decode(stored.data, Output)
                except InvalidMessage:
                    continue
                if piece.run != self.record.run or piece.n <= last:
                    continue
                self.lost += piece.n - last - 1
                last = piece.n
                yield piece
