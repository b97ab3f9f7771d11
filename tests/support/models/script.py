"""What a scripted model is asked and what it answers, whichever interface carries it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Json

    @property
    def key(self) -> str:
        """The key it was sent with, whichever header carried it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer

    @property
    def said(self) -> str:
        """All text of its messages and of its system prompt: what the model would see."""
        return "\n".join(_texts([self.body.get(name) for name in _SAYING]))

    @property
    def tool_results(self) -> list[Json]:
        """The tool results in its last message, of Anthropic's interface."""
        messages = self.body.get("messages") or [{}]
        content = messages[-1].get("content")
        blocks = content if isinstance(content, list) else []
        return [block for block in blocks if block.get("type") == "tool_result"]


_SAYING = ("system", "instructions", "systemInstruction", "messages", "input", "contents")
_HOLDING = (
    "text", "content", "input", "output", "parts", "functionResponse", "response", "arguments",
)  # fmt: skip


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for name in _HOLDING for text in _texts(value.get(name))]
    return []


@dataclass(frozen=True)
class Says:
    """The model answers with text and ends its turn."""

    text: str


@dataclass(frozen=True)
class Uses:
    """The model calls a tool."""

    tool: str
    input: Json
    text: str = ""
    """What it says before."""


@dataclass(frozen=True)
class Fails:
    """The provider refuses or breaks."""

    status: int
    message: str = "scripted error"
    retry: bool = True
    """False adds the header that tells a client not to try again."""


@dataclass(frozen=True)
class Hangs:
    """No answer comes; the request stays open until the client or the endpoint goes."""


@dataclass(frozen=True)
class Stalls:
    """The answer begins and does not go on."""

    text: str


Step = Says | Uses | Fails | Hangs | Stalls
Script = Callable[[Request], Step]


def in_order(*steps: Step) -> Script:
    """A script that gives one step for each request and repeats the last one."""
    left = list(steps)

    def script(_: Request) -> Step:
        return left.pop(0) if len(left) > 1 else left[0]

    return script


def result(status: str = "success", summary: str = "done", **data: object) -> str:
    """A `<result>` block."""
    return f"<result>{json.dumps({'status': status, 'summary': summary, 'data': data})}</result>"
