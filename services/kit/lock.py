"""A lock on a file: one process at a time, released by the kernel when that process is gone."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import JetcrewError


@contextlib.contextmanager
def held_lock(path: Path, taken: JetcrewError) -> Iterator[None]:
    """Hold the lock for the block.

    Raises:
        JetcrewError: `taken`, when another process holds it.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        yield
