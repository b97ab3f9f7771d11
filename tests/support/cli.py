"""The `jetcrew` command as a user starts it, on a state directory of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

JETCREW = str(Path(sys.executable).parent / "jetcrew")
PATIENCE = 240.0
"""Seconds for one command; machines of tests are slow, and nothing here is about speed."""


@dataclass(frozen=True)
class Done:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout, which has to be one JSON document on one line."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """Its stderr, which has to be one line and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("jetcrew: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@dataclass(frozen=True)
class Cli:
    """Commands on one state directory; nothing of the caller's own crew shines through."""

    state: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What each command is started with."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JETCREW_")}  # noqa: TID251  # tests have no settings
        return inherited | {
            "JETCREW_STATE_DIR": str(self.state),
            "XDG_CONFIG_HOME": str(self.state.parent / "config"),
            "JETCREW_RUNTIME": "process",
            **self.variables,
        }

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [JETCREW, *arguments],
            input=stdin.encode(),
            capture_output=True,
            env=self.environment | variables,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextlib.contextmanager
    def started(self, *arguments: str, **options: Any) -> "Iterator[Running]":
        """A command that goes on meanwhile; whatever is left of it at the end is killed."""
        log = self.state.parent / f"stderr-{time.monotonic_ns()}"
        out = log.with_suffix(".out")
        with log.open("wb") as stderr, out.open("wb") as stdout:
            process = subprocess.Popen(
                [JETCREW, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", stdout),
                stderr=stderr,
                env=self.environment,
                **options,
            )
        running = Running(process, out, log)
        try:
            yield running
        finally:
            running.end()


class Running:
    """A command that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", out: Path, log: Path) -> None:
        self.process = process
        self._out = out
        self._log = log

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(errors="replace")

    def until(self, there: Callable[[], bool]) -> None:
        """Poll; fail when the command ends before."""
        give_up = time.monotonic() + PATIENCE
        while not there():
            assert self.process.poll() is None, f"it ended: {self.out}{self.err}"
            assert time.monotonic() < give_up, f"in vain: {self.out}{self.err}"
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """As a terminal or a supervisor sends it."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def child(self, having: str) -> int:
        """The number of the child whose command line holds this."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if any(having in word for word in child.cmdline()):
                        return child.pid
            time.sleep(0.05)
        raise AssertionError(f"no child {having}")

    def end(self) -> None:
        """In order if it can be had."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def processes_of(state: Path) -> list[str]:
    """Command lines of all processes that were started with this state directory or work in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if str(state) in words or process.environ().get("JETCREW_STATE_DIR") == str(state):
                found.append(words)
    return found
