"""One provider's interface."""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.support.models.script import Fails, Json, Request, Says, Stalls, Uses

numbers = itertools.count(1)
"""For ids."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How requests and answers look on the wire."""

    speaks: Callable[[Request], bool]
    stream: Callable[[Says | Uses, Request], bytes]
    """A whole answer as server-sent events."""
    beginning: Callable[[Stalls, Request], bytes]
    """The first events of one."""
    error: Callable[[Fails], Json]
    whole: Callable[[Says | Uses, Request], Json]
    """An answer that is not streamed."""
    streamed: Callable[[Request], bool] = lambda request: bool(request.body.get("stream"))
    aside: Callable[[Request], Json | None] = lambda _: None
    """The answer to something else than a question to the model."""


def tokens_in(request: Request) -> int:
    """Roughly, as everybody estimates them."""
    return max(1, len(request.said) // 4)


def events(each: Iterable[Json], *, named: bool = True) -> bytes:
    """Server-sent events; `named` ones repeat their type."""
    return "".join(
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n"
        for event in each
    ).encode()


def pieces(text: str, length: int = 40) -> list[str]:
    """A text cut as models cut it: anywhere."""
    return [text[at : at + length] for at in range(0, len(text), length)]
