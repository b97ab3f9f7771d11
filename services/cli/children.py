"""Processes of a crew: started with us, started again when they end, ended with us."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.cli.text import clean
from services.kit.crew import ends_with_parent

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds before a process is started again; doubled each time."""
STEADY = 30.0
"""Seconds that a process has to run for its end to count as the first again."""
LOG_BYTES = 16_777_216
"""A log longer than this is moved aside (`NAME.log.1`) at the next start."""
TAIL_BYTES = 8192

Tell = Callable[[str], None]


class Backoff:
    """How long to wait before the next start, and how many ends in a row there were."""

    def __init__(self) -> None:
        self.ends = 0
        self._began = time.monotonic()

    def started(self) -> None:
        """A start."""
        self._began = time.monotonic()

    def ended(self) -> float:
        """An end; seconds to wait."""
        if time.monotonic() - self._began > STEADY:
            self.ends = 0
        self.ends += 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.ends - 1, 10))


class Child:
    """One process: owns its restarts and its log. It is in a session of its own, since Ctrl-C in a terminal
    is for us, and gets SIGTERM when we die."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        tell: Tell,
        verbose: bool = False,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        self._environment = dict(environment)
        self._log = log
        self._tell = tell
        self._verbose = verbose
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._backoff = Backoff()
        self._begins = 0

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def ends_in_a_row(self) -> int:
        """How often it ended without having run for a while."""
        return self._backoff.ends

    def from_now_on(self, **variables: str) -> None:
        """Variables that its next starts get."""
        self._environment |= variables

    async def keep_up(self) -> None:
        """Start it, again and again, until `stop`."""
        while not self._stopping.is_set():
            self._backoff.started()
            self._process = await self._spawn()
            if self._stopping.is_set():
                self._terminate()
            await self._watch(self._process)
            if self._stopping.is_set():
                return
            wait = self._backoff.ended()
            code = self._process.returncode
            how = (
                f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
            )
            self._tell(f"{self.name} {how}; starting it again (log: {self._log})")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    async def stop(self, grace: float = 20.0) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.set()
        self._terminate()
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self._tell(f"{self.name} did not end within {grace:.0f} s; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def last_words(self, lines: int = 5) -> str:
        """The end of what it logged since its last start."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._begins, self._log.stat().st_size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(clean(text).splitlines()[-lines:])

    def _terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_name(f"{self._log.name}.1"))
        with self._log.open("ab") as log:
            self._log.chmod(0o600)
            self._begins = log.tell()
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.PIPE if self._verbose else log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=ends_with_parent(),
            )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is not None:
            with self._log.open("ab") as log:
                while chunk := await process.stderr.read(65_536):
                    log.write(chunk)
                    log.flush()
                    for line in clean(chunk.decode(errors="replace")).splitlines():
                        sys.stderr.write(f"{self.name}: {line}\n")
        await process.wait()
