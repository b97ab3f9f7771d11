"""Anthropic's Messages."""

import json

from tests.support.models.interface import Interface, events, numbers, pieces, tokens_in
from tests.support.models.script import Fails, Json, Request, Says, Stalls, Uses

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _aside(request: Request) -> Json | None:
    counts = request.path.startswith("/v1/messages/count_tokens")
    return {"input_tokens": 10} if counts else None


def _error(step: Fails) -> Json:
    kind = _ERRORS.get(step.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": step.message}}


def _content(step: Says | Uses) -> list[Json]:
    if isinstance(step, Says):
        return [{"type": "text", "text": step.text}]
    said = [{"type": "text", "text": step.text}] if step.text else []
    call = {
        "type": "tool_use",
        "id": f"toolu_{next(numbers)}",
        "name": step.tool,
        "input": step.input,
    }
    return [*said, call]


def _message(step: Says | Uses, request: Request) -> Json:
    return {
        "id": f"msg_{next(numbers)}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model", "scripted"),
        "content": _content(step),
        "stop_reason": "tool_use" if isinstance(step, Uses) else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": tokens_in(request), "output_tokens": 12},
    }


def _stream(step: Says | Uses, request: Request) -> bytes:
    message = _message(step, request)
    content, stop = message["content"], message["stop_reason"]
    made: list[Json] = [
        {"type": "message_start", "message": message | {"content": [], "stop_reason": None}}
    ]
    for index, block in enumerate(content):
        if block["type"] == "text":
            empty = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": text} for text in pieces(block["text"])]
        else:
            empty = block | {"input": {}}
            given = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": text} for text in pieces(given)]
        made += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            *({"type": "content_block_delta", "index": index, "delta": each} for each in deltas),
            {"type": "content_block_stop", "index": index},
        ]
    end = {"stop_reason": stop, "stop_sequence": None}
    made += [
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]
    return events(made)


def _beginning(step: Stalls, request: Request) -> bytes:
    whole = _stream(Says(step.text), request)
    return whole[: whole.index(b"event: content_block_stop")]


INTERFACE = Interface(
    speaks=lambda request: request.method == "POST" and request.path.startswith("/v1/messages"),
    stream=_stream,
    beginning=_beginning,
    error=_error,
    whole=_message,
    aside=_aside,
)
