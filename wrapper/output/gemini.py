"""Gemini CLI's `stream-json`: one JSON object a line, the answer in pieces cut anywhere."""

from collections.abc import Iterator

from contracts.events import Usage
from wrapper.output.jsonl import Event, JsonLines, count, part, text_at
from wrapper.output.reading import KEPT, Noted

_FAILED = ("Blocked: ", "Command exited with code: ")
"""How results begin that are called a success though the command was refused, or failed."""


class GeminiOutput(JsonLines):
    """Joins the pieces; the message that repeats the prompt is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []
        self._model: str | None = None

    def _event(self, event: Event) -> Iterator[Noted]:
        match event.get("type"):
            case "init":
                self.reading.session = text_at(event, "session_id") or self.reading.session
                self._model = text_at(event, "model")
            case "message" if event.get("role") == "assistant":
                self._pieces.append(text_at(event, "content") or "")
            case "tool_use":
                yield from self._spoken()
                yield self._called(event.get("tool_name"), event.get("parameters"))
            case "tool_result":
                said = text_at(event, "output") or text_at(event, "error", "message") or ""
                failed = event.get("status") != "success" or said.startswith(_FAILED)
                yield self._returned(said, failed=failed)
            case "error":
                yield Noted("status", text_at(event, "message") or "unknown error")
            case "result":
                yield from self._spoken()
                self._result(event)

    def _spoken(self) -> Iterator[Noted]:
        """What was said since the last tool call, whole."""
        if text := "".join(self._pieces):
            self._pieces.clear()
            self.reading.text = text
            yield Noted("text", text[:KEPT])

    def _result(self, event: Event) -> None:
        self.reading.final = True
        if event.get("status") != "success":
            self.reading.error = text_at(event, "error", "message") or "unknown error"
        self.reading.usage = self._usage(event.get("stats"))

    def _usage(self, stats: object) -> Usage | None:
        taken, cached = (count(part(stats, name)) for name in ("input_tokens", "cached"))
        output = count(part(stats, "output_tokens"))
        if not taken and not output:
            return None
        return Usage(
            input_tokens=None if taken is None else taken - (cached or 0),
            output_tokens=output,
            cache_read_tokens=cached,
            model=self._model,
        )

    def close(self) -> list[Noted]:
        """Stdout is over; what was said last may lack its end."""
        return [*super().close(), *self._spoken()]
