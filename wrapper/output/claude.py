"""Claude Code's `stream-json`, which Qwen Code speaks too: one JSON object a line."""

from collections.abc import Iterator

from msgspec.structs import replace

from contracts.events import Usage
from wrapper.output.jsonl import Event, JsonLines, count, part
from wrapper.output.reading import KEPT, Noted, added


class ClaudeOutput(JsonLines):
    """Reads the envelope."""

    def __init__(self) -> None:
        super().__init__()
        self._model: str | None = None
        self._counted: object = None

    def _event(self, event: Event) -> Iterator[Noted]:
        if isinstance(session := event.get("session_id"), str) and session:
            self.reading.session = session
        match event.get("type"):
            case "system":
                yield from self._system(event)
            case "assistant":
                # A background job can wake the model up again after a result.
                self.reading.final = False
                self._count(event.get("message"))
                yield from self._assistant(event)
            case "user":
                yield from self._tool_results(event)
            case "result":
                self._result(event)

    def _system(self, event: Event) -> Iterator[Noted]:
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

    def _assistant(self, event: Event) -> Iterator[Noted]:
        for block in _blocks(event):
            if block.get("type") == "text" and isinstance(block.get("text"), str):
                if event.get("parent_tool_use_id") is None:
                    self.reading.text = block["text"]
                yield Noted("text", block["text"][:KEPT])
            elif block.get("type") == "tool_use":
                yield self._called(block.get("name"), block.get("input"))

    def _count(self, message: object) -> None:
        """An answer comes in as many events as it has blocks, each with the answer's usage."""
        name, used = part(message, "id"), usage_of(part(message, "usage"))
        if used is None or name is None or name == self._counted:
            return  # without any token it is the CLI's own word for an error
        self._counted = name
        self.reading.so_far = added(self.reading.so_far, replace(used, turns=1))

    def _tool_results(self, event: Event) -> Iterator[Noted]:
        for block in _blocks(event):
            if block.get("type") == "tool_result":
                said = " ".join(_texts(block.get("content")))
                yield self._returned(said, failed=block.get("is_error") is True)

    def _result(self, event: Event) -> None:
        reading = self.reading
        queued = event.get("queued_turn_count")
        reading.final = not (isinstance(queued, int) and queued > 0)
        if isinstance(event.get("result"), str):
            reading.text = event["result"]
        if isinstance(answer := event.get("structured_output"), dict):
            reading.structured = answer
        reading.error = _error(event) if event.get("is_error") is True else None
        reading.usage = added(reading.usage, self._usage(event))

    def _usage(self, event: Event) -> Usage | None:
        usage = usage_of(event.get("usage"))
        turns = count(event.get("num_turns"))
        return usage and replace(usage, cost_usd=_cost(event), turns=turns, model=self._model)


def usage_of(tokens: object) -> Usage | None:
    """Tokens under Anthropic's names; None when all are 0 or missing: no model answered, nothing is known."""
    input_tokens, output_tokens, cache_read, cache_write = (
        count(part(tokens, f"{kind}_tokens"))
        for kind in ("input", "output", "cache_read_input", "cache_creation_input")
    )
    if not (input_tokens or output_tokens or cache_read or cache_write):
        return None
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
    )


def _blocks(event: Event) -> Iterator[Event]:
    content = part(event, "message", "content")
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict):
            yield block


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            yield block["text"]


def _error(event: Event) -> str:
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


def _cost(event: Event) -> float | None:
    """Of this turn; `total_cost_usd` will not do, it counts a resumed conversation from its beginning."""
    models = event.get("model_usage_since_last_result")
    usages = models.values() if isinstance(models, dict) else ()
    costs = [usage.get("costUSD") for usage in usages if isinstance(usage, dict)]
    known = [float(cost) for cost in costs if isinstance(cost, int | float)]
    return sum(known) if known else None
