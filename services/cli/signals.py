"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

from services.cli.failures import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_SIGNAL = 1.0
"""Seconds within which a second signal is the first one again: `timeout` and `uv run` send each twice, to the
process and to its group."""
_SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """What was asked of us from outside."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.on_ask: list[Callable[[], None]] = []
        self._first = 0.0

    def ask(self) -> None:
        """A signal came."""
        now = time.monotonic()
        if self.asked.is_set():
            if now - self._first > SAME_SIGNAL:
                _quit()
            return
        self._first = now
        self.asked.set()
        for call in self.on_ask:
            call()


@contextlib.contextmanager
def heeded() -> Iterator[Interrupts]:
    """Take the signals while the block lasts."""
    interrupts = Interrupts()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, interrupts.ask)
    try:
        yield interrupts
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _quit() -> None:
    """At once: children are told by the kernel that we are gone."""
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.write("\njetcrew: interrupted again: not waiting for a clean end\n")
        sys.stderr.flush()
    os._exit(INTERRUPTED)
