"""git, as the command line runs it: in one repository, deaf to the caller's surroundings, dead with its caller."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import JetcrewError

_OF_ONE_REPOSITORY = frozenset(
    {
        "GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE",
        "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE", "GIT_QUARANTINE_PATH", "GIT_CEILING_DIRECTORIES",
        "GIT_IMPLICIT_WORK_TREE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_REFLOG_ACTION",
        "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_TRACE",
    }
)  # fmt: skip
"""Set where git itself calls a program, from a hook for one; they would point us at another repository."""
_ALWAYS = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",  # looking must not write the index
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
}
_NOBODYS_CODE = ("-c", "core.hooksPath=/dev/null", "-c", "submodule.recurse=false")
"""Hooks may lie in the work tree, where an agent can have written them."""

LOOK_EVERY = 0.1
"""Seconds between two calls of `meanwhile`."""

Meanwhile = Callable[[], None]


class GitFailed(JetcrewError):
    """git said no; the message is its own last line."""


@dataclass(frozen=True)
class Git:
    """git in one directory."""

    directory: Path
    variables: Mapping[str, str] = field(repr=False)
    """The environment it inherits."""

    def at(self, directory: Path) -> "Git":
        """The same elsewhere."""
        return Git(directory, self.variables)

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        kept = {k: v for k, v in self.variables.items() if k not in _OF_ONE_REPOSITORY}
        return kept | _ALWAYS | dict(more or {})

    async def __call__(
        self, *arguments: str, ok: Collection[int] = (0,), env: Mapping[str, str] | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> str:  # fmt: skip
        """What it prints, without the line's end at the end. `meanwhile` is called now and then.

        Raises:
            GitFailed: it ended with a code that is not `ok`, or is not there.
        """
        code, out, err = await self._run(arguments, env, meanwhile)
        if code not in ok:
            raise GitFailed(_reason(arguments[0], code, err))
        return out.decode(errors="surrogateescape").removesuffix("\n")

    async def succeeds(self, *arguments: str) -> bool:
        """Whether it ends with 0."""
        code, _, _ = await self._run(arguments, None, None)
        return code == 0

    async def line(self, *arguments: str) -> str | None:
        """What it prints; None when it fails, or prints nothing."""
        code, out, _ = await self._run(arguments, None, None)
        return out.decode(errors="replace").strip() or None if code == 0 else None

    async def _run(
        self, arguments: Collection[str], env: Mapping[str, str] | None, meanwhile: Meanwhile | None
    ) -> tuple[int, bytes, bytes]:
        try:
            process = await asyncio.create_subprocess_exec(
                "git", *_NOBODYS_CODE, *arguments, cwd=self.directory, env=self._environment(env),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise GitFailed("git is needed for this, and not on your PATH") from None
        said = asyncio.get_running_loop().create_task(process.communicate())
        try:
            while meanwhile is not None and not said.done():
                await asyncio.wait({said}, timeout=LOOK_EVERY)
                meanwhile()
            out, err = await said
        finally:
            said.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        assert process.returncode is not None
        return process.returncode, out, err


async def borrowing(git: Git, store: Path) -> Git:
    """A new bare repository in `store` that sees the objects of another one, and is as shallow as it.

    Raises:
        GitFailed: its path cannot be written down.
    """
    objects = (git.directory / await git("rev-parse", "--git-path", "objects")).resolve()
    shallow = git.directory / await git("rev-parse", "--git-path", "shallow")
    form = await git("rev-parse", "--show-object-format")
    if "\n" in str(objects):
        raise GitFailed(f"a path with a line end in it cannot be used: {str(objects)!r}")
    await git.at(store.parent)(
        "init", "-q", "--bare", "--template=", f"--object-format={form}", str(store)
    )
    (store / "objects" / "info").mkdir(exist_ok=True)
    (store / "objects" / "info" / "alternates").write_text(f"{objects}\n")
    if shallow.exists():
        shutil.copyfile(shallow, store / "shallow")
    return git.at(store)


def _reason(verb: str, code: int, err: bytes) -> str:
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    told = told or (lines[-1] if lines else f"exit code {code}")
    return f"git {verb}: {told.removeprefix('fatal: ').removeprefix('error: ')}"
