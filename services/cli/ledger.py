"""The outcome of a command that takes longer than a door waits."""

import asyncio
import time

from contracts.bus import Bus, Ledger
from contracts.results import Result
from services.cli.failures import CrewFailed
from services.cli.link import refusal

POLL = 1.0


async def answered(bus: Bus, result: Result, doing: str, patience: float) -> Result:
    """A door's answer, once it is the last word: what it merely `accepted` is awaited in the ledger.

    Raises:
        InvalidMessage, NotThere, Refused: what the manager said no to.
        CrewFailed: the outcome is not there after `patience` seconds.
    """
    if result.status != "accepted":
        return result
    assert result.id is not None
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if (outcome := await Ledger(bus).answer(result.id)) is not None:
            if outcome.error is not None:
                raise refusal(outcome.error)
            return outcome
        await asyncio.sleep(POLL)
    raise CrewFailed(f"the {doing} is not over after {patience:.0f} s (command {result.id})")
