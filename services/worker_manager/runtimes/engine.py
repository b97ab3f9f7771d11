"""The container engine behind async calls: threads, timeouts, and errors of ours instead of the library's."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import docker
import requests
import urllib3.exceptions
from docker.errors import APIError, DockerException, ImageNotFound
from docker.errors import NotFound as NotFound
from docker.types import CancellableStream

from contracts.errors import EngineRefused, EngineUnavailable, ImageMissing

T = TypeVar("T")

CALLS = 64
"""In flight at once; more wait."""
CALL_TIMEOUT = 60.0
"""Seconds without a byte from the engine after which a call counts as failed."""
STOP_SEEN_WITHIN = 0.5
"""Seconds until a stream heeds its stop event."""

_END = object()


class Engine:
    """One engine, as an async context. Connects at the first call, and again by itself after the engine
    was away.

    `host` as in DOCKER_HOST; None takes what the environment says.
    """

    def __init__(self, host: str | None = None, *, timeout: float = CALL_TIMEOUT) -> None:
        self.host = host
        self._timeout = timeout
        self._client: docker.DockerClient | None = None
        self._lock = threading.Lock()
        self._last = threading.local()
        self._slots = asyncio.Semaphore(CALLS)

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def call(self, work: Callable[[docker.DockerClient], T]) -> T:
        """Run `work` with the client in a thread. A cancelled caller leaves it running there.

        Raises:
            EngineUnavailable: no answer, or none in time.
            EngineRefused: the engine's own error; `ImageMissing` where that is the trouble.
            NotFound: the library's, for the caller to say what is not there.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                with _translation():
                    result = work(self._connected())
            except Exception as error:  # noqa: BLE001  # raised again where the answer is awaited
                _tell(loop, _settle, answer, None, error)
            else:
                _tell(loop, _settle, answer, result, None)

        async with self._slots:
            # Not a pool's thread: the interpreter would wait for those at its end, a build or a long stop.
            threading.Thread(target=run, name="engine-call", daemon=True).start()
            return await answer

    async def stream(
        self,
        begin: Callable[[docker.DockerClient], Iterator[Any]],
        stop: asyncio.Event | None = None,
    ) -> AsyncIterator[Any]:
        """The items of an answer without end, read in a thread of its own, until the engine ends it or
        `stop` is set. Errors as for `call`."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        answer, closable = await self.call(lambda client: self._opened(client, begin))
        closed = threading.Event()

        def read() -> None:
            try:
                with _translation():
                    for item in answer:
                        if closed.is_set():
                            return
                        _tell(loop, items.put_nowait, functools.partial(_given, item))
                _tell(loop, items.put_nowait, functools.partial(_given, _END))
            except Exception as error:  # noqa: BLE001  # raised again where the items are awaited
                _tell(loop, items.put_nowait, functools.partial(_raised, error))
            finally:
                _release(closable)

        threading.Thread(target=read, name="engine-stream", daemon=True).start()
        try:
            while stop is None or not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_SEEN_WITHIN):
                        item = await items.get()
                    if (value := item()) is _END:
                        return
                    yield value
        finally:
            closed.set()
            _close(closable)

    async def ping(self) -> None:
        """Raises EngineUnavailable unless the engine answers."""
        await self.call(lambda client: client.ping())

    def close(self) -> None:
        """Drop the connections; calls in flight fail."""
        if self._client is not None:
            self._client.close()

    def _opened(
        self, client: docker.DockerClient, begin: Callable[[docker.DockerClient], Iterator[Any]]
    ) -> "tuple[Iterator[Any], CancellableStream[Any]]":
        """An answer, and what closes it from another thread: the library offers that for events only."""
        answer = begin(client)
        if isinstance(answer, CancellableStream):
            return answer, answer
        return answer, CancellableStream(answer, self._last.response)

    def _remember(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._last.response = response

    def _connected(self) -> docker.DockerClient:
        with self._lock:
            if self._client is None:
                # The pools are per URL and the oldest is closed when there are too many, in use or not.
                pools: dict[str, Any] = {"timeout": self._timeout, "max_pool_size": CALLS}
                if self.host:
                    self._client = docker.DockerClient(base_url=self.host, num_pools=1000, **pools)
                else:
                    self._client = docker.from_env(**pools)
                self._client.api.hooks["response"].append(self._remember)
            return self._client


@contextlib.contextmanager
def _translation() -> Iterator[None]:
    try:
        yield
    except ImageNotFound as error:
        raise ImageMissing(str(error.explanation).partition(": ")[2] or "?") from error
    except NotFound:
        raise
    except APIError as error:
        if error.status_code is not None and error.status_code >= 502:
            raise EngineUnavailable(f"the container engine fails: {error.explanation}") from error
        raise EngineRefused(
            f"the container engine refuses: {error.explanation or error}"
        ) from error
    except (
        DockerException,
        OSError,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        AttributeError,  # urllib3, when a pool was closed while in use
    ) as error:
        raise EngineUnavailable(f"the container engine does not answer: {error}") from error


def _tell(loop: asyncio.AbstractEventLoop, say: Callable[..., None], *what: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
        loop.call_soon_threadsafe(say, *what)


def _settle(answer: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _given(item: Any) -> Any:
    return item


def _raised(error: Exception) -> Any:
    raise error


def _close(stream: "CancellableStream[Any]") -> None:
    """Shuts the socket below it: its thread wakes up, and the engine gives up a build."""
    with contextlib.suppress(Exception):
        stream.close()


def _release(stream: "CancellableStream[Any]") -> None:
    """Its connection, which the library would leave to the garbage collector."""
    with contextlib.suppress(Exception):
        stream._response.close()  # type: ignore[attr-defined]  # noqa: SLF001  # there is no other way


def absent_is_fine() -> AbstractContextManager[None]:
    """For removals: what is not there is removed."""
    return contextlib.suppress(NotFound)
