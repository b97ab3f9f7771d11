"""One program in a session of its own: its output as it comes, and its certain end."""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

import structlog

from contracts.errors import JetcrewError
from wrapper.family import Family

log = structlog.get_logger(__name__)

StreamName = Literal["stdout", "stderr"]
Take = Callable[[StreamName, bytes], None]

CHUNK = 65_536
"""Bytes read at once; while they are taken the program's pipe fills and it waits."""
ROOM = 1_048_576
"""Bytes that a pipe holds. Some agents end without waiting for their last words to be read, and begin by
repeating their prompt: what does not fit is lost."""
_AFTER_THE_END = 2.0
"""Seconds until a program that does not die of SIGKILL (stuck in the kernel) is left behind."""


class NotStarted(JetcrewError):
    """The program could not be started at all."""


class AgentProcess:
    """A started program. Made by `started`, which ends it with its block."""

    def __init__(
        self,
        popen: "subprocess.Popen[bytes]",
        family: Family,
        run: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._popen = popen
        self._family = family
        self._run = run
        self._loop = loop
        self.exited = asyncio.Event()
        threading.Thread(target=self._await_exit, name="exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the program itself; also its group and session."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or when a signal ended it."""
        code = self._popen.returncode
        return code if code is not None and code >= 0 else None

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it."""
        code = self._popen.returncode
        if code is None or code >= 0:
            return None
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"SIG{-code}"

    def _await_exit(self) -> None:
        # A thread rather than asyncio's child watcher: that one holds back the news of the exit until
        # the pipes close, which a grandchild can put off for ever.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        self._popen.poll()
        self._family.own.discard(self.pid)
        self.exited.set()

    async def follow(self, take: Take) -> None:
        """Hand over stdout and stderr until both are at their end."""
        async with asyncio.TaskGroup() as group:
            for name, pipe in (("stdout", self._popen.stdout), ("stderr", self._popen.stderr)):
                assert pipe is not None
                group.create_task(self._read(name, pipe, take), name=name)  # type: ignore[arg-type]  # the two literals

    async def _read(self, name: StreamName, pipe: IO[bytes], take: Take) -> None:
        reader = asyncio.StreamReader(limit=CHUNK)
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while data := await reader.read(CHUNK):
                take(name, data)
        finally:
            transport.close()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process group."""
        if not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Let go of pipes that nobody reads any more."""
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()

    async def end(self, first: signal.Signals | None = None, grace: float = 0.0) -> None:
        """Let it end by itself for `grace` seconds after the signal `first`, then kill all that is left of
        the run."""
        if first is not None and not self.exited.is_set():
            self.send(first)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self.exited.wait()
        self.send(signal.SIGKILL)
        if left := await asyncio.to_thread(self._family.end, self._run):
            log.error("processes.left", pids=left)


@contextlib.asynccontextmanager
async def started(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    family: Family,
    run: str,
    stdin: bytes = b"",
) -> AsyncIterator[AgentProcess]:
    """A program for as long as the block lasts; nothing of its run is alive afterwards.

    Its stdin is a file, not a pipe: some agents wait for ever on an open pipe, and a file needs nobody
    to feed it.

    Raises:
        NotStarted: no such program or directory, not executable, arguments too long.
    """
    process = _start(argv, env, cwd, family, run, stdin)
    try:
        yield process
    finally:
        await process.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_THE_END):
                await process.exited.wait()
        process.close()


def _start(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, family: Family, run: str, stdin: bytes
) -> AgentProcess:
    given = os.memfd_create("stdin")
    try:
        with os.fdopen(given, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(given, 0, os.SEEK_SET)
        popen = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError, IndexError) as error:
        name = argv[0] if argv else "an empty command"
        raise NotStarted(f"{name} could not be started: {error}") from None
    finally:
        os.close(given)
    for pipe in (popen.stdout, popen.stderr):
        assert pipe is not None
        # beyond what one user may have: the usual 64 KiB will do
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, ROOM)
    family.own.add(popen.pid)
    return AgentProcess(popen, family, run, asyncio.get_running_loop())
