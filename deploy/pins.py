"""Writes down every tested version, for `uv` and for the images; `just pins` runs it.

No lock file is committed: it would name the package index that its maker used. The versions stand
instead as constraints in pyproject.toml, which every `uv` command honours, and as requirements
with hashes for the images, which pip installs from whatever index a machine has.

    pins.py             resolve what pyproject.toml asks for; what is pinned stays
    pins.py --upgrade   resolve afresh, and take the newest versions
    pins.py --check     change nothing; exit 1 when the files differ from what would be written
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = "pyproject.toml"
CONSTRAINTS = re.compile(r"^constraint-dependencies = \[\n(?:    .*\n)*\]$", re.MULTILINE)
IMAGES = {
    "images/service/requirements.txt": "jetcrew",
    "images/worker-base/requirements.txt": "jetcrew-wrapper",
}
WRITTEN = (PYPROJECT, *IMAGES)
READ = ("README.md", "wrapper/pyproject.toml", "contracts/__init__.py", "uv.lock")


def main(arguments: list[str]) -> str | None:
    """Do what the arguments say; the sentence returned, if any, is an error."""
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        copy((*WRITTEN, *READ), ROOT, scratch)
        resolve(scratch, upgrade="--upgrade" in arguments)
        once = contents(scratch)
        resolve(scratch, upgrade=False)
        if contents(scratch) != once:
            return "pins: a second resolution differs from the first"
        if "--check" in arguments:
            stale = [name for name in WRITTEN if contents(ROOT)[name] != once[name]]
            return f"pins: stale: {', '.join(stale)}; run `just pins`" if stale else None
        copy((*WRITTEN, "uv.lock"), scratch, ROOT)
    return None


def copy(names: tuple[str, ...], source: Path, target: Path) -> None:
    """Copy those of the files that exist."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def contents(root: Path) -> dict[str, str]:
    """What the written files hold; nothing for one that is not there."""
    return {name: path.read_text() if (path := root / name).exists() else "" for name in WRITTEN}


def resolve(root: Path, *, upgrade: bool) -> None:
    """Resolve and write all files below `root`."""
    if upgrade:
        constrain(root, [])
    uv(root, "lock", *(["--upgrade"] if upgrade else []))
    constrain(root, export(root, "--no-hashes", "--all-packages", "--all-groups").splitlines())
    uv(root, "lock")
    for name, package in IMAGES.items():
        (root / name).write_text(export(root, "--no-dev", "--package", package))


def constrain(root: Path, pins: list[str]) -> None:
    """Replace the constraints in pyproject.toml."""
    listed = "".join(f'    "{pin}",\n' for pin in pins)
    text, count = CONSTRAINTS.subn(
        lambda _: f"constraint-dependencies = [\n{listed}]", (root / PYPROJECT).read_text()
    )
    if count != 1:
        raise SystemExit("pins: pyproject.toml needs one `constraint-dependencies = [ … ]`")
    (root / PYPROJECT).write_text(text)


def export(root: Path, *options: str) -> str:
    """Everything that is installed with these options, one requirement after the other."""
    return uv(root, "export", "--no-header", "--no-annotate", "--no-emit-workspace", *options)


def uv(root: Path, *arguments: str) -> str:
    """Run uv in `root` and return what it prints."""
    done = subprocess.run(
        ["uv", "--quiet", *arguments], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
