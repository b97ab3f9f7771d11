"""Text for people: what comes from agents is made harmless for a terminal, figures are made readable."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from contracts.events import TaskEnd, Usage

# A sequence ends at the next introducer at the latest, so that no input makes the search quadratic.
_STRING = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*+"  # OSC, DCS, SOS, PM, APC
_CSI = r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+"  # colours, cursor, modes
_ESCAPES = re.compile(
    rf"{_CSI}[@-~]"
    rf"|{_STRING}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b(?:[ -/]++[0-~]|[0-OQ-WYZ\\`-~])"  # character sets, reset, and other short ones
)
_OPEN_ENDED = re.compile(rf"(?:{_CSI}|{_STRING}\x1b?|\x1b[ -/]*+|\r)\Z")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HELD_CHARACTERS = 4096
"""Longer than this, a sequence that does not end is no sequence; its introducer alone is dropped."""


def clean(text: str) -> str:
    """Without anything that a terminal would obey: escape sequences, control characters, changes of
    direction. Line ends and tabs stay; a lone carriage return becomes a line end."""
    text = _ESCAPES.sub("", text)
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def is_text(argument: str) -> bool:
    """Whether what came from the system is text: bytes that are none are in it as lone surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str, width: int = 200) -> str:
    """Harmless, on one line, and cut at `width` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


class Cleaner:
    """`clean` for text that comes in pieces: a sequence may begin in one and end in the next."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The piece, made harmless; the beginning of an unfinished sequence waits for the next one."""
        text = self._held + text
        self._held = ""
        found = _OPEN_ENDED.search(_ESCAPES.sub(lambda m: " " * len(m[0]), text))
        if found and len(text) - found.start() <= _HELD_CHARACTERS:
            self._held = text[found.start() :]
            text = text[: found.start()]
        return clean(text)

    def rest(self) -> str:
        """What waits, once nothing more comes."""
        held, self._held = self._held, ""
        return clean(held)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """`940 kB`, `617 MB`, `1.2 GB`: decimal units, as container engines show them."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def usage_line(usage: Usage | None) -> str:
    """Tokens, cost, turns and model as far as they are known; empty when nothing is."""
    if usage is None:
        return ""
    tokens = [
        f"{count:,} {what}"
        for count, what in (
            (usage.input_tokens, "in"),
            (usage.output_tokens, "out"),
            (usage.cache_read_tokens, "from cache"),
        )
        if count is not None
    ]
    parts = ["tokens " + ", ".join(tokens)] if tokens else []
    if usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.4f}")
    if usage.turns is not None:
        parts.append(f"{usage.turns} turn" + ("" if usage.turns == 1 else "s"))
    if usage.model:
        parts.append(one_line(usage.model, 60))
    return " · ".join(parts)


def verdict_line(state: str, end: TaskEnd | None) -> str:
    """How a task ended, on one line."""
    parts = [state]
    if end is not None:
        if end.reason:
            parts[0] += f" ({one_line(end.reason, 60)})"
        if end.took is not None:
            parts.append(duration(end.took))
        if said := usage_line(end.usage):
            parts.append(said)
        told = end.verdict.summary if end.verdict and end.verdict.summary else ""
        if text := told or (end.detail if state != "succeeded" else ""):
            parts.append(one_line(text, 300))
    return " · ".join(parts)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of aligned columns with two blanks between them."""
    table = [[one_line(cell, 80) for cell in row] for row in (header, *rows)]
    widths = [max(_width(row[i]) for row in table) for i in range(len(header))]
    lines = (
        "  ".join(cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(row)).rstrip()
        for row in table
    )
    return "\n".join(lines)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
