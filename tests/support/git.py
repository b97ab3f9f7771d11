"""Real repositories."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = {
    "PATH": os.environ["PATH"],  # noqa: TID251  # tests have no settings
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": "Ann" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "ann@example.org" for who in ("AUTHOR", "COMMITTER")},
}


@dataclass(frozen=True)
class Repository:
    """A work tree with its repository, or a bare one."""

    path: Path

    @classmethod
    def made(cls, path: Path, *options: str) -> "Repository":
        """A new one, without a commit."""
        path.mkdir(parents=True)
        made = cls(path)
        made("init", "-q", "-b", "main", *options)
        return made

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run git in it."""
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments], cwd=self.path, env=ENVIRONMENT,
            input=stdin, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
        return done.stdout.decode(errors="replace").strip()

    def write(self, name: str, content: str) -> None:
        """A file of the work tree."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def commit(self, name: str = "file", content: str = "one\n", message: str = "one") -> str:
        """Write and commit a file; the commit."""
        self.write(name, content)
        self("add", "-A")
        self("commit", "-q", "-m", message)
        return self.head

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return self("rev-parse", "HEAD")

    def state(self) -> dict[str, str]:
        """All that a guest must not change: refs, HEAD, index, configuration, work tree, objects. (git touches
        objects that it needs, so that a cleaning leaves them alone.)"""
        return {
            str(file.relative_to(self.path)): (
                file.read_bytes().hex()
                + ("" if "objects" in file.parts else f" {file.stat().st_mtime_ns}")
            )
            for file in sorted(self.path.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }
