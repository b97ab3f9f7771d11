"""What the commands of `jetcrew dlq` do."""

import sys
from typing import Any

import click

from contracts.bus import Stored
from contracts.bus.deadletter import STREAM, letter_of
from contracts.codec import convert
from contracts.errors import NotThere
from contracts.letter import DeadLetter, DropLetters, LettersHandled, RedriveLetters
from contracts.results import Result
from services.cli.failures import UNSUCCESSFUL
from services.cli.ledger import answered
from services.cli.link import call
from services.cli.session import Session, plain, print_json
from services.cli.story import when
from services.cli.text import clean, columns, size

WAIT = 30.0
"""Seconds that a manager waits before it says that it is still at it."""
PATIENCE = 1800.0
"""Seconds for all letters to be sent again."""


async def list_letters(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list; the oldest first."""
    letters = await _letters(session)
    if options["as_json"]:
        print_json(letters)
        return
    if not letters:
        click.echo("no dead letters", err=True)
        return
    rows = [
        (str(x.seq), when(x.at), x.subject, "cut" if x.cut else size(x.size_bytes), x.reason)
        for x in letters
    ]
    click.echo(columns(("LETTER", "SINCE", "SUBJECT", "SIZE", "REASON"), rows))


async def show_letter(session: Session, options: dict[str, Any]) -> None:
    """All of it, its body last.

    Raises:
        NotThere: there is no such letter.
    """
    stored = await _stored(session, options["letter"])
    letter, body = letter_of(stored), stored.data.decode(errors="replace")
    if options["as_json"]:
        print_json(plain(letter) | {"body": body})
        return
    shown = {
        "letter": letter.seq,
        "since": when(letter.at),
        "subject": letter.subject,
        "reason": letter.reason,
        "first": f"message {letter.original_seq} of {letter.stream}, read by {letter.consumer}",
        "id": letter.message_id,
        "size": f"{letter.size_bytes:,} bytes" + (", of which the beginning" if letter.cut else ""),
    }
    for name, value in shown.items():
        if value:
            click.echo(f"{name:<8} {' '.join(clean(str(value)).split())}")
    click.echo(f"\n{clean(body) if sys.stdout.isatty() else body}")


async def redrive_letters(session: Session, options: dict[str, Any]) -> int:
    """Have the manager send letters again; tell which it did.

    Raises:
        NotThere, Refused, InvalidMessage: none could be.
        CrewFailed: no manager answers, or none is done in time.
    """
    command = RedriveLetters(letters="all" if options["everything"] else list(options["letters"]))
    result = await call(session.bus, "dlq", "redrive", command, wait=WAIT)
    result = await answered(session.bus, result, "redriving", PATIENCE)
    return _tell(result, options)


async def drop_letters(session: Session, options: dict[str, Any]) -> int:
    """Have the manager forget letters.

    Raises:
        NotThere: none of them is there.
        CrewFailed: no manager answers.
    """
    command = DropLetters(letters=list(options["letters"]))
    result = await call(session.bus, "dlq", "drop", command, wait=WAIT)
    result = await answered(session.bus, result, "dropping", PATIENCE)
    return _tell(result, options)


def _tell(result: Result, options: dict[str, Any]) -> int:
    handled = convert(result.record or {}, LettersHandled)
    if options["as_json"]:
        print_json(handled)
    else:
        for one in handled.redriven:
            click.echo(f"{one.letter:>6}  redriven to {clean(one.subject)} as {one.id}")
        for letter in handled.dropped:
            click.echo(f"{letter:>6}  dropped")
        for stuck in handled.stuck:
            click.echo(f"{stuck.letter:>6}  stays: {clean(stuck.error.description)}", err=True)
        if handled.unlisted:
            click.echo(f"     … and {handled.unlisted} more")
        if not (handled.redriven or handled.dropped or handled.stuck):
            click.echo("no dead letters", err=True)
    return UNSUCCESSFUL if handled.stuck else 0


async def _letters(session: Session) -> list[DeadLetter]:
    subject, found, after = session.bus.subjects.dead_letter("*", "*"), list[DeadLetter](), 0
    while page := await session.bus.page(STREAM, subject, after=after):
        found += [letter_of(stored) for stored in page]
        after = page[-1].seq
    return found


async def _stored(session: Session, seq: int) -> Stored:
    subject = session.bus.subjects.dead_letter("*", "*")
    page = await session.bus.page(STREAM, subject, after=seq - 1, limit=1)
    if not page or page[0].seq != seq:
        raise NotThere(f"there is no dead letter {seq} (jetcrew dlq list shows them)")
    return page[0]
