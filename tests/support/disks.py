"""Disks whose power can be cut: ext4 on an image of a disk, mounted through a loop device.

What a program writes is in the page cache of the mounted filesystem until it is synced, or until the kernel
gets round to it; only then is it in the image. A copy of the image is therefore what a machine finds that was
switched off at that moment: the journal is replayed when the copy is mounted.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

IMAGE_BYTES = 96 << 20
SELDOM = "noatime,commit=300"
"""The kernel's own journal commits, five seconds apart otherwise, do not save what nobody synced."""


def need_disks() -> None:
    """Skip the test where disks of one's own cannot be mounted, as in most containers, CI's among them."""
    if (why := _missing()) is not None:
        pytest.skip(f"power cannot be cut here: {why}")


@cache
def _missing() -> str | None:
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    if os.getuid() != 0:
        return "only root may mount a disk"
    with tempfile.TemporaryDirectory() as directory:
        image, at = Path(directory, "image"), Path(directory, "disk")
        try:
            _make(image, 16 << 20)
            with mounted(image, at):
                return None
        except subprocess.CalledProcessError as error:
            return f"no loop device can be mounted ({error.stderr.decode().strip()})"


@contextmanager
def fresh_disk(directory: Path) -> Iterator[tuple[Path, Path]]:
    """A new disk: its image, and where it is mounted."""
    image = directory / "disk.img"
    _make(image, IMAGE_BYTES)
    with mounted(image, directory / "disk") as at:
        yield image, at


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The disk of an image, at a directory that is made for it."""
    at.mkdir()
    _run("mount", "-o", f"loop,{SELDOM}", str(image), str(at))
    try:
        yield at
    finally:
        _unmount(at)


def synced(at: Path) -> None:
    """Have everything on this disk, and on no other, written to its image."""
    _run("sync", "-f", str(at))


def cut(image: Path, copy: Path) -> None:
    """What is left if the power fails now: a copy of the image."""
    _run("cp", "--sparse=always", str(image), str(copy))


def _make(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))


def _unmount(at: Path) -> None:
    """A process that has just been killed may still hold it for a moment."""
    give_up = time.monotonic() + 20
    while True:
        try:
            _run("umount", str(at))
        except subprocess.CalledProcessError:
            if time.monotonic() > give_up:
                _run("umount", "-l", str(at))
                raise
            time.sleep(0.05)
        else:
            return


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)
