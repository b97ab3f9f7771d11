"""Dead letters sent again, or dropped, at an operator's command."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import structlog
from msgspec.structs import replace

from contracts.bus import Bus, Stored, StreamRefused
from contracts.bus.deadletter import STREAM, letter_of, redrive, redriven_id
from contracts.codec import decode
from contracts.errors import (
    InvalidMessage,
    JetcrewError,
    NotThere,
    QueueFull,
    Refused,
    TooLarge,
)
from contracts.ids import CommandId, is_token
from contracts.letter import DropLetters, LettersHandled, RedriveLetters, Redriven, Stuck
from contracts.reports import Report
from contracts.results import Failure, Result, failure
from contracts.task import SubmitTask
from contracts.topology import Stream

log = structlog.get_logger()

LISTED = 500
"""Letters of each kind that an answer names."""


class Letters:
    """Carries out what is commanded of dead letters. A letter that would only die again stays."""

    def __init__(self, bus: Bus, command_of: Callable[[str, bytes], Any]) -> None:
        """`command_of` reads a command by the tail of its subject, or raises InvalidMessage."""
        self._bus = bus
        self._command_of = command_of
        heard = {consumer.stream for consumer in bus.topology.consumers}
        self._streams = {s.name: s for s in bus.topology.streams if s.name in heard}

    async def redrive(
        self, command: RedriveLetters, command_id: CommandId, stored_at: datetime
    ) -> Result:
        """Send letters again; of `all`, those that were there when the command was stored, so that what dies
        of it anew is left alone.

        Raises:
            BusUnavailable: not all were handled; to do it again is safe.
        """
        came: list[Redriven | Stuck] = []
        if command.letters == "all":
            came.extend(
                [await self._again(x.seq, x, command_id) async for x in self._until(stored_at)]
            )
        else:
            for seq in dict.fromkeys(command.letters):
                letter = await self._bus.at(STREAM, seq)
                came.append(await self._again(seq, letter, command_id))
        again = [one for one in came if isinstance(one, Redriven)]
        stuck = [one for one in came if isinstance(one, Stuck)]
        handled = LettersHandled(
            redriven=again[:LISTED],
            stuck=stuck[:LISTED],
            unlisted=len(again[LISTED:]) + len(stuck[LISTED:]),
        )
        return _result(handled, f"{len(again)} redriven", stuck, nothing=not again)

    async def drop(self, command: DropLetters) -> Result:
        """Take letters from their stream, for good."""
        dropped: list[int] = []
        stuck: list[Stuck] = []
        for seq in dict.fromkeys(command.letters):
            if await self._bus.delete_message(STREAM, seq):
                dropped.append(seq)
                log.info("dead_letter.dropped", letter=seq)
            else:
                stuck.append(Stuck(letter=seq, error=failure(_not_there(seq))))
        handled = LettersHandled(dropped=dropped, stuck=stuck)
        return _result(handled, f"{len(dropped)} dropped", stuck, nothing=not dropped)

    async def _until(self, at: datetime) -> AsyncIterator[Stored]:
        after, everything = 0, self._bus.subjects.dead_letter("*", "*")
        while page := await self._bus.page(STREAM, everything, after=after):
            for letter in page:
                if letter.at > at:
                    return
                yield letter
            after = page[-1].seq

    async def _again(
        self, seq: int, letter: Stored | None, command_id: CommandId
    ) -> Redriven | Stuck:
        try:
            if letter is None:
                raise _not_there(seq)
            self._check(letter)
            receipt = await redrive(self._bus, letter, cause=command_id)
        except (InvalidMessage, Refused, TooLarge, QueueFull, StreamRefused) as error:
            log.info("dead_letter.stuck", letter=seq, reason=str(error))
            return Stuck(letter=seq, error=_failure(seq, error))
        subject = letter_of(letter).subject
        log.info("dead_letter.redriven", letter=seq, subject=subject, seq=receipt.seq)
        return Redriven(letter=seq, subject=subject, id=redriven_id(letter), seq=receipt.seq)

    def _check(self, letter: Stored) -> None:
        """Whether there is any hope for it.

        Raises:
            InvalidMessage: it does not decode, and never will.
            Refused: its subject is gone, or its body is not all there.
        """
        told = letter_of(letter)
        stream = self._streams.get(told.stream)
        if stream is None or not stream.takes(told.subject):
            raise Refused(f"no stream takes {told.subject} any more")
        if told.cut:
            kept = len(letter.data)
            raise Refused(f"only {kept:,} of its {told.size_bytes:,} bytes could be kept")
        self._decode(stream, told.subject, letter.data)

    def _decode(self, stream: Stream, subject: str, body: bytes) -> None:
        subjects = self._bus.subjects
        match stream.name:
            case "JC_CMD":
                self._command_of(subject.removeprefix(subjects.command("", "")[:-1]), body)
            case "JC_TASK":
                if not is_token(name := subject.removeprefix(subjects.task(""))):
                    raise Refused(f"no worker can be named {name!r}")
                decode(body, SubmitTask)
            case "JC_REP":
                decode(body, Report)  # type: ignore[arg-type]  # a union is not a class


def _not_there(seq: int) -> NotThere:
    return NotThere(
        f"there is no dead letter {seq}: it was redriven or dropped, or is too old",
        field="$.letters",
    )


def _failure(seq: int, error: JetcrewError) -> Failure:
    told = failure(error)
    if isinstance(error, NotThere):
        return told
    return replace(told, description=f"dead letter {seq}: {told.description}")


def _result(handled: LettersHandled, done: str, stuck: list[Stuck], *, nothing: bool) -> Result:
    """A refusal when nothing was done because nothing could be."""
    if not stuck:
        return Result(detail=done, record=handled)
    if not nothing:
        return Result(detail=f"{done}, {len(stuck)} not", record=handled)
    error = stuck[0].error
    if len(stuck) > 1:
        error = replace(error, description=f"{error.description}; {len(stuck) - 1} more likewise")
    return Result(status="refused", detail=error.description, error=error, record=handled)
