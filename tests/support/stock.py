"""The stock `nats` command line, run with an operator's credential."""

import asyncio
import os
import shutil

import pytest

from tests.support.servers import Server


def need_stock() -> None:
    """Skip the test where the command line is not installed; in CI that is a failure."""
    if shutil.which("nats") is not None:
        return
    if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
        pytest.fail("the nats command line is not installed")
    pytest.skip("the nats command line is not installed")


async def stock(server: Server, *words: str) -> tuple[int, str]:
    """Exit code and everything said."""
    home = server.state.root / "cli"
    process = await asyncio.create_subprocess_exec(
        "nats", "--server", server.url, "--creds", str(server.creds("operator")),
        "--inbox-prefix", "_INBOX.ops.operator", *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(home)},  # noqa: TID251  # of the child
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
