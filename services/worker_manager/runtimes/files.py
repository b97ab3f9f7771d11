"""What is delivered to a worker's boot directory."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

BOOT_FILE = "boot.json"
STAGED_BOOT_FILE = ".boot.json"
"""Its name until all the others are there; the wrapper waits for the real one."""


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write them readable by their owner alone, `boot.json` last and whole."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in _ordered(files):
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)
    if BOOT_FILE in files:
        (directory / STAGED_BOOT_FILE).replace(directory / BOOT_FILE)


def tar_of_files(files: Mapping[str, bytes], owner: int) -> bytes:
    """The same as an archive in which `boot.json` still bears its staged name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folders = {PurePosixPath(name).parent for name, _ in _ordered(files)} - {PurePosixPath()}
        for folder in sorted(folders):
            member = tarfile.TarInfo(str(folder))
            member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, 0o700, owner, owner
            archive.addfile(member)
        for name, content in _ordered(files):
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid, member.size = 0o600, owner, owner, len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _ordered(files: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """Under the names they are written by, `boot.json` last."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or len(path.parts) > 2 or not path.parts:
            raise ValueError(f"{name!r} is not a file of a boot directory")
    rest = sorted((name, content) for name, content in files.items() if name != BOOT_FILE)
    boot = [(STAGED_BOOT_FILE, files[BOOT_FILE])] if BOOT_FILE in files else []
    return rest + boot
