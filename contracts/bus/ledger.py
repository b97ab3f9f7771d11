"""The ledger: one answer a command, for as long as answers are kept.

A stream's own deduplication lasts minutes and, on a work queue, not over a restart of the server.
"""

from typing import TYPE_CHECKING

from contracts.bus.messages import Expect
from contracts.codec import decode
from contracts.errors import Conflict
from contracts.ids import CommandId
from contracts.results import Result

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

STREAM = "JC_RES"


class Ledger:
    """Answers by command id."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus

    async def answer(self, command: CommandId) -> Result | None:
        """What came of the command, if it was carried out before."""
        stored = await self._bus.last(STREAM, self._bus.subjects.result(command))
        return decode(stored.data, Result) if stored else None

    async def enter(self, command: CommandId, result: Result) -> Result:
        """Record the answer; the one that stands, which is an earlier one if there is any."""
        subject = self._bus.subjects.result(command)
        try:
            await self._bus.publish(subject, result, id=f"res-{command}", expect=Expect(0))
        except Conflict:
            return await self.answer(command) or result
        return result
