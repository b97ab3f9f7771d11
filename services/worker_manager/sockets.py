"""Unix sockets in directories that containers have mounted."""

import os
import socket
from pathlib import Path


def listening(directory: Path, name: str) -> socket.socket:
    """A socket that listens in `directory`, which is made if it is missing and never replaced, because a
    running worker has it mounted. A socket left there by an earlier process is replaced.

    Bound through the directory's descriptor: a socket's own path may not exceed 107 bytes. A container's user
    reaches the socket through the mount of the directory, so that the modes of the directories above, private
    to us on the host, do not matter to it.
    """
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.chmod(0o711)
    (directory / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        (directory / name).chmod(0o666)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener
