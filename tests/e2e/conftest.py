"""A crew that is up, for the tests of the command line that can share one."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.cli import Cli, Running
from tests.support.servers import need_server


@pytest.fixture(scope="module")
def jetcrew(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command on the state directory of this module's crew."""
    need_server()
    return Cli(tmp_path_factory.mktemp("crew") / "state")


@pytest.fixture(scope="module")
def up(jetcrew: Cli) -> Iterator[Running]:
    """The crew, with a worker `ada`."""
    with jetcrew.started("up", "--runtime", "process", "--json") as running:
        running.until(lambda: running.out.endswith("\n"))
        made = jetcrew("worker", "create", "ada", "--agent", "shell")
        assert made.code == 0, made.err
        yield running
        assert running.process.poll() is None, "nothing in a test may end it"
        jetcrew("worker", "delete", "ada")  # unless a test has
        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.err
