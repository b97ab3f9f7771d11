"""Programs that an operator runs in a worker."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import docker

from contracts.errors import InvalidMessage
from contracts.worker import ExecOutcome
from services.worker_manager.runtimes.profile import UID, WORKSPACE

OUTPUT = 262_144
"""Bytes that are kept of what a program writes."""
OVERTIME = 124
"""Exit code by which `timeout` says that it killed."""
NO_PROGRAM = {126, 127}
"""Exit codes for a program that is none, or not there."""


def run_inside(
    client: docker.DockerClient, container: str, argv: Sequence[str], timeout: float
) -> ExecOutcome:
    """Run a program in a container; blocks. The engine cannot end an exec, `timeout` in the container can.

    Raises:
        InvalidMessage: there is no such program.
    """
    command = ["timeout", "-k", "1", f"{timeout:g}", *argv]
    made = client.api.exec_create(container, command, user=f"{UID}:{UID}", workdir=WORKSPACE)
    output, cut = _kept(client.api.exec_start(made["Id"], stream=True))
    code = client.api.exec_inspect(made["Id"])["ExitCode"]
    return _outcome(argv, code, output, cut=cut)


async def run_beside(
    argv: Sequence[str], timeout: float, *, cwd: Path, env: Mapping[str, str]
) -> ExecOutcome:
    """Run a program as a plain process.

    Raises:
        InvalidMessage: there is no such program.
    """
    command = ["timeout", "-k", "1", f"{timeout:g}", *argv]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=dict(env), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    kept, cut = bytearray(), False
    try:
        async with asyncio.timeout(timeout + 5):  # a grandchild may hold the pipe for longer
            while chunk := await process.stdout.read(65_536):
                kept += chunk
                cut = cut or len(kept) > OUTPUT
                del kept[OUTPUT:]
    except TimeoutError:
        cut = True
    finally:
        if process.returncode is None:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                async with asyncio.timeout(5):
                    await process.wait()
    return _outcome(argv, process.returncode, bytes(kept), cut=cut)


def _kept(chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    kept, cut = bytearray(), False
    for chunk in chunks:
        kept += chunk
        cut = cut or len(kept) > OUTPUT
        del kept[OUTPUT:]
    return bytes(kept), cut


def _outcome(argv: Sequence[str], code: int | None, output: bytes, *, cut: bool) -> ExecOutcome:
    text = output.decode(errors="replace")
    if code in NO_PROGRAM and text.startswith("timeout: "):
        why = text.strip()[:200]
        raise InvalidMessage(f"{argv[0]!r} cannot be run in it: {why}", field="$.argv[0]")
    killed = code == OVERTIME
    return ExecOutcome(exit_code=None if killed else code, output=text, cut=cut)
