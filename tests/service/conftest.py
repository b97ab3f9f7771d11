"""What most tests of one service begin with; a module with other needs has fixtures of its own by these names."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.bus import Bus
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with everything that the topology names."""
    async with running_server(tmp_path, applied=True) as server:
        yield server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    """The manager's connection to it."""
    async with control_plane(server) as bus:
        yield bus
