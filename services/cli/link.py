"""Speaking to a crew: the connection of a command, and the doors of the manager."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator

import structlog
from msgspec import Struct

from contracts.bus import MSG_ID, Bus, connect
from contracts.codec import convert, decode
from contracts.errors import BusUnavailable, InvalidMessage, NotThere, Refused
from contracts.ids import nonce
from contracts.results import Failure, Result
from contracts.worker import StatusOfWorker, WorkerRecord
from services.cli.failures import CrewFailed, NoCrew
from services.cli.target import Target

PATIENCE = 5.0
"""Seconds to wait for a server that should be there."""
JC_WAIT = "Jc-Wait"
SLACK = 5.0
"""Seconds that an answer may take beyond the wait that was asked for."""


@contextlib.asynccontextmanager
async def linked(
    target: Target, *, patience: float = PATIENCE, debug: bool = False
) -> AsyncIterator[Bus]:
    """A connection to the crew's bus.

    Raises:
        NoCrew: no server answers there.
        Denied: it does not take the credentials.
    """
    if not debug:
        quiet()
    async with contextlib.AsyncExitStack() as stack:
        try:
            bus = await stack.enter_async_context(
                connect(
                    target.url, name="jetcrew-cli", creds=target.creds,
                    inbox_prefix=target.inbox_prefix, topology=target.topology, patience=patience,
                )
            )  # fmt: skip
        except BusUnavailable as error:
            hint = "is the crew up (jetcrew up), and is that its address?"
            raise NoCrew(f"{error}; {hint}") from None
        yield bus


def quiet() -> None:
    """No log lines: a command speaks for itself."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # noqa: TID251  # the library's own


async def call(
    bus: Bus, entity: str, verb: str, message: Struct, *, wait: float = 3.0, budget: float = 15.0
) -> Result:
    """Ask the manager through its synchronous door, again under the same id when no answer comes.

    `wait` is how many seconds the manager waits for the outcome before it answers `accepted`.

    Raises:
        InvalidMessage, NotThere, Refused: what it said no to.
        CrewFailed: no manager answered within `budget` seconds.
    """
    subject = bus.subjects.door(entity, verb)
    headers = {MSG_ID: nonce(), JC_WAIT: f"{wait:g}"}
    until = time.monotonic() + budget
    while True:
        try:
            answer = await bus.request(subject, message, headers=headers, timeout=wait + SLACK)
            return _said(decode(answer.data, Result))
        except BusUnavailable as error:
            if time.monotonic() > until:
                raise CrewFailed(
                    f"the worker manager does not answer ({error}); is it running? jetcrew doctor"
                ) from None
            await asyncio.sleep(0.2)


async def status_of(
    bus: Bus, worker: str, *, wait: float = 3.0, budget: float = 15.0
) -> WorkerRecord:
    """The record of a worker, as its manager tells it.

    Raises:
        NotThere: there is none of this name.
        CrewFailed: no manager answers.
    """
    result = await call(
        bus, "worker", "status", StatusOfWorker(name=worker), wait=wait, budget=budget
    )
    if result.record is None:
        raise NotThere(f'there is no worker "{worker}"')
    return convert(result.record, WorkerRecord)


def _said(result: Result) -> Result:
    if result.error is not None:
        raise refusal(result.error)
    return result


def _where(text: str) -> str:
    """The command that shows what there is, where a refusal tells of something that is not."""
    found = re.match(r"there is no (worker|task) ", text)
    return f" (jetcrew {found[1]} list shows them)" if found else ""


def refusal(failure: Failure) -> Exception:
    """The error that a door's answer stands for."""
    text, field = failure.description, failure.field
    match failure.code:
        case 422:
            path = field or "$"
            return InvalidMessage(text.removeprefix(f"{path}: "), field=path)
        case 404:
            return NotThere(text + _where(text), field=field)
        case code if code >= 500:
            return CrewFailed(text)
        case _:
            return Refused(text, field=field)
