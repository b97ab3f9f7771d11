"""OpenAI's Responses."""

import json

from tests.support.models.interface import Interface, events, numbers, pieces, tokens_in
from tests.support.models.script import Fails, Json, Request, Says, Stalls, Uses


def error(step: Fails) -> Json:
    """Of both interfaces of OpenAI."""
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(step.status)
    kind = "server_error" if step.status >= 500 else "invalid_request_error"
    return {"error": {"message": step.message, "type": kind, "param": None, "code": code}}


def _items(step: Says | Uses) -> list[Json]:
    made: list[Json] = []
    if text := step.text:
        part = {"type": "output_text", "text": text, "annotations": []}
        made.append(
            {
                "id": f"msg_{next(numbers)}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        )
    if isinstance(step, Uses):
        number = next(numbers)
        made.append(
            {
                "id": f"fc_{number}",
                "type": "function_call",
                "call_id": f"call_{number}",
                "name": step.tool,
                "arguments": json.dumps(step.input),
                "status": "completed",
            }
        )
    return made


def _response(step: Says | Uses, request: Request) -> Json:
    taken = tokens_in(request)
    return {
        "id": f"resp_{next(numbers)}", "object": "response", "created_at": 1, "status": "completed",
        "model": request.body.get("model", "scripted"), "output": _items(step),
        "usage": {
            "input_tokens": taken, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 12,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": taken + 12,
        },
    }  # fmt: skip


def _made(step: Says | Uses, request: Request) -> list[Json]:
    response = _response(step, request)
    begun = response | {"status": "in_progress", "output": [], "usage": None}
    made: list[Json] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(response["output"]):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            empty, at = item | {"content": [], "status": "in_progress"}, at | {"content_index": 0}
            name, cut = "response.output_text.delta", pieces(item["content"][0]["text"])
        else:
            empty = item | {"arguments": "", "status": "in_progress"}
            name, cut = "response.function_call_arguments.delta", pieces(item["arguments"])
        made += [
            {"type": "response.output_item.added", "output_index": index, "item": empty},
            *({"type": name, "delta": text, **at} for text in cut),
            {"type": "response.output_item.done", "output_index": index, "item": item},
        ]
    made.append({"type": "response.completed", "response": response})
    return [event | {"sequence_number": number} for number, event in enumerate(made)]


def _beginning(step: Stalls, request: Request) -> bytes:
    return events(_made(Says(step.text), request)[:3])


INTERFACE = Interface(
    speaks=lambda request: request.method == "POST" and request.path.endswith("/responses"),
    stream=lambda step, request: events(_made(step, request)),
    beginning=_beginning,
    error=error,
    whole=_response,
)
