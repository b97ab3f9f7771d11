"""The boot socket, both ends of it: what is sent arrives once, whole, and for one wrapper only."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.errors import ConfigurationInvalid
from services.worker_manager.runtimes import profile
from services.worker_manager.runtimes.handover import Handover
from wrapper.handover import FIT, TAKEN, handover, write_down

BIG = {"boot.json": b"{}", "worker.creds": b"seed\x00\xff", "secrets/KEY": b"x" * 4_000_000}


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Handover]:
    manager = Handover()
    await manager.open(tmp_path / "bus")
    yield manager
    manager.close()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "bus" / "boot.sock"


async def test_a_wrapper_knows_its_place_long_before_it_gets_its_files(
    manager: Handover, socket: Path, tmp_path: Path
) -> None:
    boot = tmp_path / "cred"
    boot.mkdir()
    async with handover(socket, boot) as told:
        assert told is not None
        assert told.berth.workspace == profile.WORKSPACE
        told.say(FIT)
        assert await manager.fit

        manager.give(BIG)
        write_down(await told.files(), boot)
        told.say(TAKEN)

    assert await manager.taken
    assert {name: (boot / name).read_bytes() for name in BIG} == BIG
    modes = {stat.S_IMODE((boot / name).stat().st_mode) for name in BIG}
    assert (modes, stat.S_IMODE(boot.stat().st_mode)) == ({0o600}, 0o700)


async def test_what_is_given_before_anybody_connects_is_there_when_somebody_does(
    manager: Handover, socket: Path, tmp_path: Path
) -> None:
    manager.give(BIG)

    async with handover(socket, tmp_path) as told:
        assert told is not None
        assert await told.files() == BIG


async def test_nobody_connects_after_the_one(
    manager: Handover, socket: Path, tmp_path: Path
) -> None:
    async with handover(socket, tmp_path) as told:
        assert told is not None
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(socket)
        assert not manager.gone


async def test_a_wrapper_whose_agent_is_not_in_order_says_so(
    manager: Handover, socket: Path, tmp_path: Path
) -> None:
    async with handover(socket, tmp_path) as told:
        assert told is not None
        told.say("unfit")
        assert not await manager.fit


async def test_a_wrapper_that_dies_is_gone(manager: Handover, socket: Path, tmp_path: Path) -> None:
    async with handover(socket, tmp_path):
        pass

    assert not await manager.taken
    assert manager.gone


async def test_a_wrapper_whose_manager_dies_has_no_worker(
    manager: Handover, socket: Path, tmp_path: Path
) -> None:
    async with handover(socket, tmp_path) as told:
        assert told is not None
        manager.close()
        with pytest.raises(ConfigurationInvalid, match="the manager went away"):
            await told.files()


async def test_boot_files_that_come_in_another_way_end_the_search(tmp_path: Path) -> None:
    asyncio.get_running_loop().call_later(0.05, (tmp_path / "boot.json").write_bytes, b"{}")

    async with handover(tmp_path / "nobody.sock", tmp_path) as told:
        assert told is None
