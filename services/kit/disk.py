"""How much is free on a disk, and whether that is enough for another worker."""

import shutil
from pathlib import Path

from contracts.topology import GIB

RESERVE = float(GIB)
"""What has to be free unless the operator says otherwise."""


def shortage(path: Path, reserve: float) -> str | None:
    """The sentence that says that less than `reserve` is free on the disk of `path`; blocks."""
    try:
        disk = shutil.disk_usage(path)
    except OSError:
        return None
    wanted = reserve * disk.total if reserve < 1 else reserve
    if disk.free >= wanted:
        return None
    return (
        f"{disk.free / GIB:.2f} GiB are free on the disk of {path}, and "
        f"{wanted / GIB:.2f} GiB have to be (JETCREW_DISK_RESERVE)"
    )
