"""Factory droid's `stream-json`: one JSON object a line."""

from collections.abc import Iterator

from msgspec.structs import replace

from wrapper.output.claude import usage_of
from wrapper.output.jsonl import Event, JsonLines, count, text_at
from wrapper.output.reading import Noted


class DroidOutput(JsonLines):
    """Reads the events; the message that repeats the prompt is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self._model: str | None = None
        self._error: str | None = None

    def _event(self, event: Event) -> Iterator[Noted]:
        if session := text_at(event, "session_id"):
            self.reading.session = session
        match event.get("type"):
            case "system":
                self._model = text_at(event, "model") or self._model
            case "message" if event.get("role") == "assistant":
                self.reading.final = False
                if text := text_at(event, "text"):
                    yield self._said(text)
            case "tool_call":
                yield self._called(event.get("toolName"), event.get("parameters"))
            case "tool_result":
                said = text_at(event, "value") or text_at(event, "error", "message") or ""
                yield self._returned(said, failed=event.get("isError") is True)
            case "error":
                yield from self._failed(event)
            case "completion":
                self._completed(event)

    def _failed(self, event: Event) -> Iterator[Noted]:
        said = text_at(event, "message") or "unknown error"
        if event.get("source") == "cli":
            # Its last word, which only says that it failed; the reason came before.
            self.reading.error = self._error or said
            self.reading.final = True
        else:
            self._error = said
            yield Noted("status", said)

    def _completed(self, event: Event) -> None:
        reading = self.reading
        reading.text = text_at(event, "finalText") or reading.text
        reading.final = True
        usage = usage_of(event.get("usage"))
        if usage is not None:
            turns = count(event.get("numTurns"))
            reading.usage = replace(usage, turns=turns, model=self._model)
