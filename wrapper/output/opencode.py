"""OpenCode's `run --format json`: one JSON object a line; a tool call is told of when it is over."""

from collections.abc import Iterator

from contracts.events import Usage
from wrapper.output.jsonl import Event, JsonLines, count, part, price, text_at
from wrapper.output.reading import Noted, added

_GOES_ON = {"tool-calls", "unknown"}


class OpencodeOutput(JsonLines):
    """Reads the events. An answer counts only when the model stopped by itself after it."""

    def _event(self, event: Event) -> Iterator[Noted]:
        self.reading.session = text_at(event, "sessionID") or self.reading.session
        match event.get("type"):
            case "step_start":
                self.reading.final = False
            case "text":
                yield self._said(text_at(event, "part", "text") or "")
            case "tool_use":
                state = part(event, "part", "state")
                yield self._called(text_at(event, "part", "tool"), part(state, "input"))
                failed = part(state, "status") == "error" or bool(
                    count(part(state, "metadata", "exit"))
                )
                said = text_at(state, "output") or text_at(state, "error") or ""
                yield self._returned(said, failed=failed)
            case "step_finish":
                self._step_ended(event.get("part"))
            case "error":
                self.reading.error = _error(event.get("error"))
                self.reading.final = True

    def _step_ended(self, step: object) -> None:
        reading, reason = self.reading, text_at(step, "reason")
        reading.so_far = added(reading.so_far, _usage(step))
        reading.final = reason not in _GOES_ON
        if reading.final:
            reading.usage = reading.so_far
        if reading.final and reason != "stop":
            reading.error = f"The model stopped before its end: {reason}."


def _usage(step: object) -> Usage | None:
    """Of one step; a price of 0 is one that it does not know."""
    tokens = part(step, "tokens")
    usage = Usage(
        input_tokens=count(part(tokens, "input")),
        output_tokens=count(part(tokens, "output")),
        cache_read_tokens=count(part(tokens, "cache", "read")),
        cache_write_tokens=count(part(tokens, "cache", "write")),
        cost_usd=price(part(step, "cost")) or None,
        turns=1,
    )
    return usage if usage.input_tokens or usage.output_tokens else None


def _error(error: object) -> str:
    status = count(part(error, "data", "statusCode"))
    said = text_at(error, "data", "message") or text_at(error, "name") or "unknown error"
    return said if status is None else f"{status} {said}"
