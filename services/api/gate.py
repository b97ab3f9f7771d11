"""The one gate that every request passes before any route is looked for."""

import hmac
import re
from ipaddress import ip_address

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from services.api.problems import MEDIA_TYPE, problem

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token: they tell nothing but whether the process works."""


class Gate:
    """Lets in who brings the token; without one, only who names this machine by a loopback name.

    The latter keeps out pages in a browser whose own host name was made to resolve to this machine.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != ScopeType.HTTP:
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        if self._token is None:
            if not is_loopback(_name(headers.get(b"host", b""))):
                await _refuse(send, 421, "this server answers to loopback names only", path, "Host")
                return
        elif path not in OPEN and not self._known(headers.get(b"authorization", b"")):
            detail = "a token is needed: Authorization: Bearer …"
            await _refuse(send, 401, detail, path, "Authorization")
            return
        await self._app(scope, receive, send)

    def _known(self, authorization: bytes) -> bool:
        assert self._token is not None
        scheme, _, given = authorization.partition(b" ")
        return hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"


def is_loopback(name: str) -> bool:
    """Whether a host name or address means this machine and can be reached from it only."""
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::\d*)?")


def _name(host: bytes) -> str:
    """A Host header without its port and brackets; nothing if it is none."""
    match = _HOST.fullmatch(host.decode("latin-1"))
    return (match[1] or match[2] or "") if match else ""


async def _refuse(send: Send, status: int, detail: str, path: str, field: str) -> None:
    body = msgspec.json.encode(problem(status, detail, path, field))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
