"""The HTTP server that is cancelled: it leaves no socket, no connection and no task."""

import asyncio
import contextlib
import gc
import socket

import pytest
from litestar.types import Receive, Scope, Send

from services.api.server import bind, serve_http
from services.api.settings import HttpSettings


async def endless(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An app whose answers never end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"more", "more_body": True})
        await asyncio.sleep(0.01)


def listener(port: int = 0) -> socket.socket:
    made = bind(HttpSettings(port=port))
    made.listen()
    return made


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def refused(port: int) -> bool:
    """Whether nobody listens there any more, and somebody else may."""
    with socket.socket() as client:
        code = client.connect_ex(("127.0.0.1", port))
    listener(port).close()
    return code != 0


@pytest.mark.parametrize("turns", range(8))
async def test_cancelled_during_its_start_it_lets_go_of_its_socket(turns: int) -> None:
    sock = listener()
    port = sock.getsockname()[1]
    serving = asyncio.get_running_loop().create_task(serve_http(endless, sock, asyncio.Event()))
    for _ in range(turns):
        await asyncio.sleep(0)
    if turns == 0:  # it has not begun: the socket is still its maker's
        await cancelled(serving)
        sock.close()
    else:
        await cancelled(serving)

    assert sock.fileno() == -1
    assert refused(port)
    gc.collect()


@pytest.mark.parametrize("asked", [True, False])
async def test_ended_in_the_middle_of_answers_it_closes_every_connection(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.server.LAST_WORDS", 0.2)
    sock, stop = listener(), asyncio.Event()
    port = sock.getsockname()[1]
    before = asyncio.all_tasks()
    serving = asyncio.get_running_loop().create_task(serve_http(endless, sock, stop))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, idle = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"more")
    if asked:
        stop.set()
        await serving
    else:
        await cancelled(serving)

    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while await reader.read(65_536):
                pass
    assert refused(port)
    assert asyncio.all_tasks() == before
    for each in (writer, idle):
        each.close()
        with contextlib.suppress(ConnectionError):
            await each.wait_closed()
    gc.collect()
