"""The synchronous doors: validate, store the command, wait for its result, answer in a PubAck's shape."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog
from msgspec.structs import replace

from contracts import __version__
from contracts.bus import ACTOR, MSG_ID, TRACEPARENT, Ledger, Message, Receipt, header
from contracts.bus.micro import Answer, Endpoint, service
from contracts.codec import decode, encode
from contracts.errors import (
    BusUnavailable,
    InvalidMessage,
    JetcrewError,
    QueueFull,
    Refused,
    TooLarge,
)
from contracts.ids import CommandId, message_id, nonce
from contracts.results import Result, failure
from contracts.topology import ARTIFACTS, COMMANDS, DOOR_BYTES
from contracts.worker import PutSecret
from services.worker_manager.commands import command_of
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.diagnosis import Diagnosis
from services.worker_manager.parcels import Parcels

log = structlog.get_logger()

WAIT = "Jc-Wait"
"""Header: seconds that the caller waits for the result."""
STATUS = "Jc-Status"
"""Header of the answer: 200, 202 when the result was not there in time, or the error's code."""
DEFAULT_WAIT = 3.0
"""Seconds; the stock command line gives up after five, without a word."""
LONGEST_WAIT = 100.0
"""Seconds; below the two minutes after which the server forgets where an answer goes."""


class Doors:
    """Answers callers. Carries out nothing itself, but for secrets, which no stream may hold, and looks
    inside workers, which are of no use later."""

    def __init__(self, crew: Crew, credentials: Credentials, diagnosis: Diagnosis) -> None:
        self._crew = crew
        self._bus = crew.bus
        self._credentials = credentials
        self._diagnosis = diagnosis
        self._parcels = Parcels(crew)
        self._ledger = Ledger(crew.bus)
        self._waiting: dict[str, list[asyncio.Future[Result]]] = defaultdict(list)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Offer the doors while the block lasts."""
        subjects = self._bus.subjects
        endpoints = [
            Endpoint(
                name=f"{entity}-{verb}",
                subject=subjects.door(entity, verb),
                handle=self._door(f"{entity}.{verb}"),
                metadata={"stores": subjects.command(entity, verb)},
            )
            for entity, verbs in COMMANDS.items()
            for verb in verbs
        ]
        endpoints += [
            Endpoint(name="secret-put", subject=subjects.door("secret", "put"), handle=self._put),
            Endpoint(
                name="worker-exec", subject=subjects.door("worker", "exec"), handle=self._exec
            ),
            Endpoint(
                name="artifact-put",
                subject=subjects.door("artifact", "put"),
                handle=_storing(self._parcels.lay_piece),
            ),
            Endpoint(
                name="artifact-keep",
                subject=subjects.door("artifact", "keep"),
                handle=_storing(self._parcels.lay_out),
            ),
        ]
        async with (
            self._parcels.opened(),
            self._bus.serve(subjects.result(CommandId("*")), self._result),
            service(
                self._bus,
                subjects.prefix,
                __version__,
                "Commands for the crew, answered with their result",
                endpoints,
            ),
        ):
            yield

    async def _result(self, message: Message) -> None:
        command = message.subject.rpartition(".")[2]
        try:
            result = decode(message.data, Result)
        except InvalidMessage:
            return
        for future in self._waiting.pop(command, []):
            if not future.done():
                future.set_result(result)

    def _door(self, tail: str) -> Callable[[Message], Awaitable[Answer]]:
        async def handle(message: Message) -> Answer:
            try:
                return _said(await self._ask(tail, message))
            except (InvalidMessage, Refused, TooLarge, QueueFull, BusUnavailable) as error:
                return _refusal(error)

        return handle

    async def _ask(self, tail: str, message: Message) -> Result:
        if len(message.data) > DOOR_BYTES:
            raise TooLarge(len(message.data), DOOR_BYTES)
        command_of(tail, message.data)
        wait = _seconds(header(message.headers, WAIT))
        given = header(message.headers, MSG_ID)
        command = CommandId(message_id("s", given or nonce(), 0))
        passed = {
            n: v for n in (ACTOR, TRACEPARENT) if (v := header(message.headers, n)) is not None
        }
        entity, _, verb = tail.partition(".")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[command].append(future)
        receipt: Receipt | None = None
        try:
            receipt = await self._bus.publish(
                self._bus.subjects.command(entity, verb), message.data, id=command, headers=passed, budget=5
            )  # fmt: skip
            # a repeated command has its answer already, and it will not be published again
            if (answer := await self._ledger.answer(command)) is not None:
                return answer
            async with asyncio.timeout(wait):
                return await future
        except TimeoutError:
            assert receipt is not None
            return _accepted(receipt, command, wait)
        finally:
            if future in self._waiting.get(command, []):
                self._waiting[command].remove(future)
                if not self._waiting[command]:
                    del self._waiting[command]

    async def _put(self, message: Message) -> Answer:
        try:
            secret = decode(message.data, PutSecret)
            await self._credentials.put(secret)
        except InvalidMessage as error:
            # an error repeats what it found, which here may be the value itself
            return _refusal(InvalidMessage(error.reason.partition("; got ")[0], field=error.field))
        except JetcrewError as error:
            return _refusal(error)
        return _said(Result(stream="jc_secret", seq=1, detail=f"secret {secret.name} is stored"))

    async def _exec(self, message: Message) -> Answer:
        try:
            result = await self._diagnosis.asked(message)
        except JetcrewError as error:
            return _refusal(error)
        return _said(replace(result, stream="JC_EVT", seq=1))


def _storing(store: Callable[[bytes], Awaitable[Result]]) -> Callable[[Message], Awaitable[Answer]]:
    """A door to the object store."""

    async def handle(message: Message) -> Answer:
        try:
            result = await store(message.data)
        except JetcrewError as error:
            return _refusal(error)
        return _said(replace(result, stream=f"OBJ_{ARTIFACTS}", seq=1))

    return handle


def _accepted(receipt: Receipt, command: CommandId, wait: float) -> Result:
    return Result(
        stream=receipt.stream,
        seq=receipt.seq,
        id=command,
        status="accepted",
        detail=f"stored, not carried out within {wait:g} s; the result will be in JC_RES",
    )


def _seconds(text: str | None) -> float:
    if text is None:
        return DEFAULT_WAIT
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT:
        raise InvalidMessage(
            f"{WAIT} is a number of seconds from 0 to {LONGEST_WAIT:g}; got {text[:40]!r}",
            field="$headers",
        )
    return seconds


def _said(result: Result) -> Answer:
    code = result.error.code if result.error else {"accepted": 202}.get(result.status, 200)
    return encode(result), {STATUS: str(code)}


def _refusal(error: JetcrewError) -> Answer:
    told = failure(error)
    headers: Mapping[str, str] = {STATUS: str(told.code)}
    return encode(Result(status="refused", detail=str(error), error=told)), headers
