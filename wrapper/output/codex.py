"""Codex's `exec --json`: one JSON object a line; tokens are counted over the whole conversation."""

from collections.abc import Iterator

from msgspec.structs import replace

from contracts.events import Usage
from wrapper.output.jsonl import Event, JsonLines, count, part, text_at, usage_with_cache_inside
from wrapper.output.reading import Noted

_SILENT = {"agent_message", "reasoning", "todo_list", "error"}
"""Items that are not tool calls."""


class CodexOutput(JsonLines):
    """Reads the events. An answer counts only once its turn is completed."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: set[str] = set()

    def _event(self, event: Event) -> Iterator[Noted]:
        match event.get("type"):
            case "thread.started":
                self.reading.session = text_at(event, "thread_id") or self.reading.session
            case "turn.started":
                self.reading.final = False
            case "item.started":
                yield from self._item_began(event)
            case "item.completed":
                yield from self._item_ended(event)
            case "error":
                # What it tries again by itself; the last one comes as `turn.failed`, too.
                yield Noted("retry", text_at(event, "message") or "unknown error")
            case "turn.completed":
                self.reading.usage = _usage(event)
                self.reading.final = True
            case "turn.failed":
                self.reading.error = text_at(event, "error", "message") or "unknown error"
                self.reading.final = True

    def _item_began(self, event: Event) -> Iterator[Noted]:
        kind = text_at(event, "item", "type")
        if kind is not None and kind not in _SILENT:
            self._begun.add(text_at(event, "item", "id") or "")
            yield self._called(*_call(kind, event.get("item")))

    def _item_ended(self, event: Event) -> Iterator[Noted]:
        kind, item = text_at(event, "item", "type"), event.get("item")
        if kind == "agent_message":
            yield self._said(text_at(item, "text") or "")
        elif kind == "error":
            yield Noted("status", text_at(item, "message") or "unknown error")
        elif kind is not None and kind not in _SILENT:
            if text_at(item, "id") not in self._begun:
                yield self._called(*_call(kind, item))
            failed = text_at(item, "status") in ("failed", "declined") or bool(
                count(part(item, "exit_code"))
            )
            said = text_at(item, "aggregated_output") or text_at(item, "error", "message") or ""
            yield self._returned(said, failed=failed)


def _call(kind: str, item: object) -> tuple[str, object]:
    if kind == "command_execution":
        return "exec", text_at(item, "command") or ""
    if kind == "mcp_tool_call":
        return f"{text_at(item, 'server')}.{text_at(item, 'tool')}", part(item, "arguments")
    shown = ("changes", "query", "prompt")
    return kind, next((found for name in shown if (found := part(item, name)) is not None), "")


def _usage(event: Event) -> Usage | None:
    """Of the whole conversation."""
    tokens = event.get("usage")
    usage = usage_with_cache_inside(tokens, "cached_input_tokens")
    written = count(part(tokens, "cache_write_input_tokens"))
    return usage and replace(usage, cache_write_tokens=written)
