"""Google's Gemini."""

from tests.support.models.interface import Interface, events, pieces, tokens_in
from tests.support.models.script import Fails, Json, Request, Says, Uses

_STATUS = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}


def _error(step: Fails) -> Json:
    # A wrong key is no 401 there.
    invalid = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    status = _STATUS.get(step.status, "INTERNAL")
    details = {"details": invalid} if "API key" in step.message else {}
    return {"error": {"code": step.status, "message": step.message, "status": status} | details}


def _parts(step: Says | Uses) -> list[Json]:
    said: list[Json] = [{"text": text} for text in pieces(step.text)]
    if isinstance(step, Uses):
        said.append({"functionCall": {"name": step.tool, "args": step.input}})
    return said


def _chunk(parts: list[Json], request: Request, *, last: bool = True) -> Json:
    taken = tokens_in(request)
    candidate: Json = {"index": 0, "content": {"role": "model", "parts": parts}}
    usage = {"promptTokenCount": taken, "candidatesTokenCount": 12, "totalTokenCount": taken + 12}
    if not last:
        return {"candidates": [candidate]}
    return {"candidates": [candidate | {"finishReason": "STOP"}], "usageMetadata": usage}


def _made(step: Says | Uses, request: Request) -> list[Json]:
    *before, final = _parts(step)
    return [_chunk([part], request, last=False) for part in before] + [_chunk([final], request)]


def _aside(request: Request) -> Json | None:
    return {"totalTokens": tokens_in(request)} if ":countTokens" in request.path else None


INTERFACE = Interface(
    speaks=lambda request: request.method == "POST" and "/models/" in request.path,
    stream=lambda step, request: events(_made(step, request), named=False),
    beginning=lambda step, request: events(
        [_chunk([{"text": step.text}], request, last=False)], named=False
    ),
    error=_error,
    whole=lambda step, request: _chunk(_parts(step), request),
    streamed=lambda request: "streamGenerateContent" in request.path,
    aside=_aside,
)
