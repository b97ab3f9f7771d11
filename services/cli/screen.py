"""What a command shows: phases on stderr, with a spinner on a terminal; the agent's output on stdout.

The two may be the same terminal, so the spinner goes away before anything is written and comes back only
at the start of a line. Whatever came from an agent is made harmless where a terminal would read it.
"""

import asyncio
import sys
import time
from typing import IO, TYPE_CHECKING

from services.cli.failures import OutputClosed
from services.cli.text import Cleaner, one_line

if TYPE_CHECKING:
    from rich.status import Status

QUIET_BEFORE_SPINNER = 0.4
"""Seconds without output after which the spinner comes back."""


class Screen:
    """One command's stdout and stderr. `document` keeps stdout free for one JSON document: the agent's
    output then goes to stderr."""

    def __init__(
        self, *, document: bool = False, out: IO[str] | None = None, err: IO[str] | None = None
    ) -> None:
        self._err = err or sys.stderr
        self._out = self._err if document else out or sys.stdout
        self._harmless = self._out.isatty()
        self._cleaners: dict[str, Cleaner] = {}
        self._at_line_start = True
        self._last_output = 0.0
        self._spinning: Status | None = None
        self._doing = ""
        self._shared = self._err.isatty() and self._out.isatty()

    # -- phases -----------------------------------------------------------------------------------

    def phase(self, text: str) -> None:
        """A step that is over or a fact, for good."""
        self._hide()
        self._end_partial_line()
        self._write(self._err, f"{one_line(text, 400)}\n")
        self._show()

    def doing(self, text: str) -> None:
        """What goes on now: beside the spinner on a terminal; nowhere else, where phases tell enough."""
        self._doing = one_line(text, 120)
        if self._spinning is not None:
            self._spinning.update(self._label())
        else:
            self._show()

    def idle(self) -> None:
        """Nothing goes on any more."""
        self._doing = ""
        self._hide()

    def tick(self) -> None:
        """Called now and then: brings the spinner back after output."""
        if self._doing and time.monotonic() - self._last_output > QUIET_BEFORE_SPINNER:
            self._show()

    # -- output -----------------------------------------------------------------------------------

    async def output(self, text: str, source: str = "") -> None:
        """The agent's own words; each `source` is a sequence of pieces of its own.

        Raises:
            OutputClosed: nobody reads any more.
        """
        if self._harmless:
            text = self._cleaners.setdefault(source, Cleaner()).feed(text)
        if text:
            self._hide()
            # A reader that is slow, a pager for one, must not stop the bus from being served.
            await asyncio.to_thread(self._write, self._out, text)
            self._at_line_start = text.endswith("\n")
            self._last_output = time.monotonic()

    async def end_output(self) -> None:
        """No more of it comes: what waited is written, and an open line is ended on a terminal."""
        rest = "".join(cleaner.rest() for cleaner in self._cleaners.values())
        self._cleaners.clear()
        if rest:
            await self.output(rest)
        self._end_partial_line()

    def _end_partial_line(self) -> None:
        if not self._at_line_start and (self._shared or self._out is self._err):
            self._write(self._out, "\n")
            self._at_line_start = True

    def _write(self, file: IO[str], text: str) -> None:
        try:
            file.write(text)
            file.flush()
        except BrokenPipeError:
            raise OutputClosed("nobody reads the output any more") from None

    # -- spinner ----------------------------------------------------------------------------------

    def _label(self) -> "str":
        from rich.markup import escape

        return escape(self._doing)

    def _show(self) -> None:
        if self._spinning is not None or not self._doing or not self._err.isatty():
            return
        if self._shared and not self._at_line_start:
            return
        from rich.console import Console

        self._spinning = Console(file=self._err).status(self._label(), spinner="dots")
        self._spinning.start()

    def _hide(self) -> None:
        if self._spinning is not None:
            self._spinning.stop()
            self._spinning = None
