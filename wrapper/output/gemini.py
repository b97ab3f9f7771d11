"""Gemini CLI's `stream-json`: one JSON object a line, the answer in pieces cut anywhere."""

from collections.abc import Iterator

from msgspec.structs import replace

from contracts.events import Usage
from wrapper.output.jsonl import Event, JsonLines, text_at, usage_with_cache_inside
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
        usage = usage_with_cache_inside(stats, "cached")
        return usage and replace(usage, model=self._model)

    def close(self) -> list[Noted]:
        """Stdout is over; what was said last may lack its end."""
        return [*super().close(), *self._spoken()]
