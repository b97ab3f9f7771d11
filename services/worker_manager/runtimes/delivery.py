"""Files into a running container's memory: by exec on stdin, as one archive.

Not by the engine's own archive call: it refuses a read-only container, and in a writable one it puts a
secret on the disk below the mount. Not by the environment or the command line, which `inspect` shows.
"""

import contextlib
import socket
import time
from typing import Any

import docker

from contracts.errors import EngineRefused
from services.worker_manager.runtimes.files import BOOT_FILE, STAGED_BOOT_FILE
from services.worker_manager.runtimes.profile import BOOT_DIRECTORY, UID

# Some versions of runc give a tmpfs the mode of the image's directory below it instead of the one asked for.
# What was delivered whole is not delivered again: the wrapper may have renewed its credential by now.
_RECEIVE = f"""
umask 077
cd {BOOT_DIRECTORY} && chmod 0700 . || exit 1
if [ -e .delivered ] || [ -e {BOOT_FILE} ]; then cat >/dev/null; exit 0; fi
tar -xf - && mv {STAGED_BOOT_FILE} {BOOT_FILE} && : >.delivered
"""
_CODE_KNOWN_WITHIN = 5.0
"""Seconds from the end of an exec's output to its exit code."""


def deliver(client: docker.DockerClient, container: str, archive: bytes) -> None:
    """Unpack `archive` in the boot directory, `boot.json` last; nothing happens if that was done before.

    Raises:
        EngineRefused: the container does not run, or could not take it.
    """
    api = client.api
    made = api.exec_create(container, ["/bin/sh", "-c", _RECEIVE], stdin=True, user=f"{UID}:{UID}")
    stream: Any = api.exec_start(made["Id"], socket=True)
    connection: socket.socket = getattr(stream, "_sock", stream)
    said = b""
    try:
        connection.settimeout(30)
        connection.sendall(archive)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65_536):
            said += chunk[8:]
    finally:
        connection.close()
        with contextlib.suppress(OSError):
            stream.close()
    code = _exit_code(api, made["Id"])
    if code != 0:
        why = said.decode(errors="replace").strip() or f"exit code {code}"
        raise EngineRefused(f"the container did not take its boot files: {why}")


def _exit_code(api: Any, exec_id: str) -> int | None:
    deadline = time.monotonic() + _CODE_KNOWN_WITHIN
    while True:
        code: int | None = api.exec_inspect(exec_id)["ExitCode"]
        if code is not None or time.monotonic() > deadline:
            return code
        time.sleep(0.02)
