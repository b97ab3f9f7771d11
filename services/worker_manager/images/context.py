"""What goes into a build from this installation: the wrapper's sources and the base's files.

A worker gets the `wrapper` and `contracts` packages as they are installed here, copied file by file. No
wheel is built: whoever starts jetcrew from a checkout or a wheel may have no build tool at hand, and a
wheel of the same sources differs from build to build in its time stamps, where the tag may not.
"""

import importlib.util
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from contracts.errors import ConfigurationInvalid

PACKAGES = ("contracts", "wrapper")
SUFFIXES = {".py", ".typed", ".json", ".txt", ".md"}


def wrapper_sources() -> dict[str, bytes]:
    """The files a worker imports, by path.

    Raises:
        ConfigurationInvalid: a package is not installed.
    """
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigurationInvalid(f"this installation of jetcrew lacks the package {package}")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                files[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return files


def base_files(images: Path) -> tuple[str, bytes]:
    """Dockerfile and pinned requirements of the worker base."""
    folder = images / "worker-base"
    return (folder / "Dockerfile").read_text(), (folder / "requirements.txt").read_bytes()


def archive(dockerfile: str, files: Mapping[str, bytes]) -> io.BytesIO:
    """A build context: the same bytes for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted({**files, "Dockerfile": dockerfile.encode()}.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer
