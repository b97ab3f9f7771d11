"""git in a workspace, as a process of the run: bounded in time, and ended with all it started."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from contracts.errors import JetcrewError
from wrapper.agent import MARKER
from wrapper.boot import Place
from wrapper.family import Family
from wrapper.output.reading import shortened
from wrapper.process import NotStarted, StreamName, started

PATIENCE = 60.0
"""Seconds for one question to git."""
OUTPUT = 1_048_576
"""Bytes of an answer that are kept."""

# The workspace's own configuration may name programs. They would be the agent's, and get no further than
# the agent; but nothing here needs them.
_QUIETLY = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false",
    "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.quotePath=false",
    "-c", "protocol.file.allow=always",
)  # fmt: skip

Feed = Callable[[bytes], None]


class GitFailed(JetcrewError):
    """git said no, or took too long; the message is its own last line."""


@dataclass(frozen=True, kw_only=True)
class Git:
    """git in one directory."""

    directory: Path
    env: Mapping[str, str] = field(repr=False)
    family: Family
    run: str
    patience: float = PATIENCE

    def within(self, seconds: float) -> "Git":
        """The same, with this much patience for each question."""
        return replace(self, patience=seconds)

    async def __call__(
        self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> str:
        """What it prints, without the line's end at the end.

        Raises:
            GitFailed: it ended with another code than 0, was not there, or not in time.
        """
        out = bytearray()

        def feed(data: bytes) -> None:
            out.extend(data[: OUTPUT - len(out)])

        await self.pour(feed, *arguments, stdin=stdin, env=env)
        return out.decode(errors="surrogateescape").removesuffix("\n")

    async def answer(self, *arguments: str) -> str | None:
        """What it prints; None when it fails."""
        try:
            return await self(*arguments)
        except GitFailed:
            return None

    async def line(self, *arguments: str) -> str | None:
        """What it prints; None when it fails, or prints nothing."""
        return await self.answer(*arguments) or None

    async def pour(
        self, feed: Feed, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> None:
        """Hand over what it prints as it comes.

        Raises:
            GitFailed: as above.
        """
        err = bytearray()

        def take(stream: StreamName, data: bytes) -> None:
            if stream == "stdout":
                feed(data)
            else:
                err.extend(data[: OUTPUT - len(err)])

        argv = ["git", "-C", str(self.directory), *_QUIETLY, *arguments]
        whole = {**self.env, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(env or {})}
        try:
            async with (
                asyncio.timeout(self.patience),
                started(
                    argv,
                    env=whole,
                    cwd=self.directory,
                    family=self.family,
                    run=self.run,
                    stdin=stdin,
                ) as git,
            ):
                await git.follow(take)
                await git.exited.wait()
        except NotStarted as error:
            raise GitFailed(str(error)) from None
        except TimeoutError:
            raise GitFailed(f"git {arguments[0]} took longer than {self.patience:.0f} s") from None
        if git.exit_code != 0:
            raise GitFailed(f"git {arguments[0]}: {_reason(err, git.exit_code)}")


def in_workspace(place: Place, family: Family, run: str) -> Git:
    """git as the wrapper needs it: not with the agent's variables, nor its global configuration."""
    env = {
        "PATH": place.boot.path,
        "HOME": place.boot.home,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        **{f"GIT_{who}_NAME": "jetcrew" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "jetcrew@jetcrew.invalid" for who in ("AUTHOR", "COMMITTER")},
    }
    return Git(directory=place.workspace, env=env | {MARKER: run}, family=family, run=run)


def _reason(err: bytes | bytearray, code: int | None) -> str:
    lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    told = told or (lines[-1] if lines else f"exit code {code}")
    return shortened(told.removeprefix("fatal: ").removeprefix("error: "))
