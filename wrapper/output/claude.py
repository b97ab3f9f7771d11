"""Claude Code's `stream-json`, which Qwen Code speaks too: one JSON object a line."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from contracts.events import Usage
from wrapper.output.lines import Lines
from wrapper.output.reading import KEPT, Noted, Reading, added

_decoder = msgspec.json.Decoder()


class ClaudeOutput:
    """Reads the envelope; lines that are not JSON objects are passed over."""

    ends_with_event = True

    def __init__(self) -> None:
        self.reading = Reading()
        self._lines = Lines()
        self._model: str | None = None

    def feed(self, data: bytes) -> list[Noted]:
        """Take a piece of stdout."""
        return [note for line in self._lines.feed(data) for note in self._line(line)]

    def close(self) -> list[Noted]:
        """Stdout is over."""
        return [note for line in self._lines.close() for note in self._line(line)]

    def _line(self, line: bytes) -> Iterator[Noted]:
        event = _decoded(line)
        if event is None:
            return
        if isinstance(session := event.get("session_id"), str) and session:
            self.reading.session = session
        match event.get("type"):
            case "system":
                yield from self._system(event)
            case "assistant":
                # A background job can wake the model up again after a result.
                self.reading.final = False
                yield from self._assistant(event)
            case "user":
                yield from self._tool_results(event)
            case "result":
                self._result(event)

    def _system(self, event: dict[str, Any]) -> Iterator[Noted]:
        if event.get("subtype") == "init" and isinstance(event.get("model"), str):
            self._model = event["model"]
        if event.get("subtype") == "api_retry":
            wait = event.get("retry_delay_ms")
            after = f", next in {wait / 1000:.1f} s" if isinstance(wait, int | float) else ""
            yield Noted(
                "retry",
                f"attempt {event.get('attempt')} of {event.get('max_retries')}: "
                f"{event.get('error_status') or event.get('error') or 'no answer'}{after}",
            )

    def _assistant(self, event: dict[str, Any]) -> Iterator[Noted]:
        for block in _blocks(event):
            if block.get("type") == "text" and isinstance(block.get("text"), str):
                if event.get("parent_tool_use_id") is None:
                    self.reading.text = block["text"]
                yield Noted("text", block["text"][:KEPT])
            elif block.get("type") == "tool_use":
                self.reading.tools += 1
                given = json.dumps(block.get("input"), ensure_ascii=False)
                yield Noted("tool", f"{block.get('name')} {given}"[:KEPT])

    def _tool_results(self, event: dict[str, Any]) -> Iterator[Noted]:
        for block in _blocks(event):
            if block.get("type") == "tool_result":
                failed = block.get("is_error") is True
                self.reading.tools_failed += failed
                said = " ".join(_texts(block.get("content")))
                yield Noted("tool-done", f"{'failed' if failed else 'ok'}: {said}"[:KEPT])

    def _result(self, event: dict[str, Any]) -> None:
        reading = self.reading
        queued = event.get("queued_turn_count")
        reading.final = not (isinstance(queued, int) and queued > 0)
        if isinstance(event.get("result"), str):
            reading.text = event["result"]
        reading.error = _error(event) if event.get("is_error") is True else None
        reading.usage = added(reading.usage, self._usage(event))

    def _usage(self, event: dict[str, Any]) -> Usage | None:
        tokens = event.get("usage")
        tokens = tokens if isinstance(tokens, dict) else {}
        found = {
            name: _count(tokens.get(key))
            for name, key in (
                ("input_tokens", "input_tokens"),
                ("output_tokens", "output_tokens"),
                ("cache_read_tokens", "cache_read_input_tokens"),
                ("cache_write_tokens", "cache_creation_input_tokens"),
            )
        }
        if not any(found.values()):  # an error before the model said anything: nothing is known
            return None
        return Usage(
            **found, cost_usd=_cost(event), turns=_count(event.get("num_turns")), model=self._model
        )


def _decoded(line: bytes) -> dict[str, Any] | None:
    line = line.strip()
    if not line.startswith(b"{"):
        return None
    try:
        event = _decoder.decode(line)
    except (ValueError, RecursionError):
        try:  # halves of surrogate pairs and broken UTF-8 are no reason to lose an answer
            event = _decoder.decode(_respelled(json.loads(line.decode(errors="replace"))))
        except (ValueError, RecursionError):
            return None
    return event if isinstance(event, dict) else None


def _respelled(event: object) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def _blocks(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = event.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict):
            yield block


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            yield block["text"]


def _error(event: dict[str, Any]) -> str:
    """Everything the event says of its error: `subtype` is `success` even for one of the provider."""
    error = event.get("error")
    errors = event.get("errors")
    said = [
        event.get("subtype") if event.get("subtype") != "success" else None,
        event.get("result"),
        error.get("message") if isinstance(error, dict) else error,
        *(errors if isinstance(errors, list) else []),
    ]
    return ": ".join(text for text in said if isinstance(text, str) and text) or "unknown error"


def _cost(event: dict[str, Any]) -> float | None:
    """Of this turn; `total_cost_usd` will not do, it counts a resumed conversation from its beginning."""
    models = event.get("model_usage_since_last_result")
    usages = models.values() if isinstance(models, dict) else ()
    costs = [usage.get("costUSD") for usage in usages if isinstance(usage, dict)]
    known = [float(cost) for cost in costs if isinstance(cost, int | float)]
    return sum(known) if known else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
