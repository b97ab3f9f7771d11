"""OpenAI's Chat Completions, which many providers speak."""

import json

from tests.support.models.interface import Interface, events, numbers, pieces, tokens_in
from tests.support.models.responses import error
from tests.support.models.script import Json, Request, Says, Stalls, Uses


def _calls(step: Says | Uses) -> list[Json]:
    if isinstance(step, Says):
        return []
    function = {"name": step.tool, "arguments": json.dumps(step.input)}
    return [{"id": f"call_{next(numbers)}", "type": "function", "function": function}]


def _head(request: Request, kind: str) -> Json:
    model = request.body.get("model", "scripted")
    return {"id": f"chatcmpl-{next(numbers)}", "object": kind, "created": 1, "model": model}


def _reason(step: Says | Uses) -> str:
    return "tool_calls" if isinstance(step, Uses) else "stop"


def _usage(request: Request) -> Json:
    taken = tokens_in(request)
    return {"prompt_tokens": taken, "completion_tokens": 12, "total_tokens": taken + 12}


def _whole(step: Says | Uses, request: Request) -> Json:
    message: Json = {"role": "assistant", "content": step.text}
    if calls := _calls(step):
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": _reason(step)}
    return _head(request, "chat.completion") | {"choices": [choice], "usage": _usage(request)}


def _deltas(step: Says | Uses) -> list[Json]:
    made: list[Json] = [{"role": "assistant", "content": ""}]
    made += [{"content": text} for text in pieces(step.text)]
    for index, call in enumerate(_calls(step)):
        function = call["function"]
        made.append(
            {"tool_calls": [call | {"index": index, "function": function | {"arguments": ""}}]}
        )
        made += [
            {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            for text in pieces(function["arguments"])
        ]
    return made


def _made(step: Says | Uses, request: Request) -> list[Json]:
    head = _head(request, "chat.completion.chunk")
    made = [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in _deltas(step)
    ]
    made.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": _reason(step)}]})
    return [*made, head | {"choices": [], "usage": _usage(request)}]


def _stream(step: Says | Uses, request: Request) -> bytes:
    return events(_made(step, request), named=False) + b"data: [DONE]\n\n"


def _beginning(step: Stalls, request: Request) -> bytes:
    return events(_made(Says(step.text), request)[:2], named=False)


INTERFACE = Interface(
    speaks=lambda request: request.method == "POST" and request.path.endswith("/chat/completions"),
    stream=_stream,
    beginning=_beginning,
    error=error,
    whole=_whole,
)
