"""A work tree as it is, ignored files left out, as an object of git: with an index of its own, so that
nobody's is changed."""

import shutil
from pathlib import Path

from wrapper.git import Git


async def tree_of(git: Git, scratch: Path) -> str:
    """The tree object of what lies in the workspace.

    Raises:
        GitFailed: something cannot be read, or takes too long.
    """
    index = scratch / "index"
    own = git.directory / await git("rev-parse", "--git-path", "index")
    index.unlink(missing_ok=True)
    if own.exists():
        shutil.copyfile(own, index)
    env = {"GIT_INDEX_FILE": str(index)}
    try:
        await git("add", "-A", env=env)
        return await git("write-tree", env=env)
    finally:
        index.unlink(missing_ok=True)
