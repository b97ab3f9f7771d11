"""Obeying: cancel and drain, on a subject that nobody else knows."""

import asyncio

import structlog

from contracts.asks import CancelRun, Control, Drain
from contracts.bus import Bus, Message
from contracts.codec import decode
from contracts.errors import BusUnavailable, InvalidMessage
from contracts.ids import WorkerId
from wrapper.boot import Place
from wrapper.state import State

log = structlog.get_logger(__name__)


async def obey(bus: Bus, place: Place, state: State, listening: asyncio.Event) -> None:
    """Handle control messages for as long as the connection lasts; what does not decode is dropped.

    Sets `listening` once orders arrive.
    """
    subject = bus.subjects.control(WorkerId(place.boot.worker), place.boot.ctl_nonce)
    while not bus.closed.is_set():
        try:
            async with bus.listen(subject) as messages:
                listening.set()
                async for message in messages:
                    _take(message, state)
        except BusUnavailable as error:
            log.warning("control.deaf", error=str(error))


def _take(message: Message, state: State) -> None:
    try:
        order: Control = decode(message.data, Control)  # type: ignore[arg-type]  # a union is a type to msgspec
    except InvalidMessage as error:
        log.warning("control.dropped", error=str(error))
    else:
        follow(order, state)


def follow(order: Control, state: State) -> None:
    """Do what the order says, if it concerns the run at hand."""
    if isinstance(order, Drain):
        log.info("control.drain")
        state.draining.set()
        return
    current = state.current
    if current is None or (current.work.task, current.work.attempt) != (order.task, order.attempt):
        log.info("control.stale", task=order.task, attempt=order.attempt)
        return
    log.info("control.cancel", task=order.task, state=order.state, reason=order.reason)
    current.stop.want(order.state, _word(order), order.reason)


def _word(order: CancelRun) -> str:
    return "deadline" if order.state == "timed-out" else "cancelled"
