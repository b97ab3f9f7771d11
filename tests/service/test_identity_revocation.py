"""Credentials of workers taken back, and kept back."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.bus import Bus, Message
from contracts.errors import BusUnavailable, ConfigurationInvalid
from contracts.ids import WorkerId
from contracts.topology import REVOKED, Topology
from contracts.worker import CreateWorker, WorkerRecord
from services.kit.identity.revocations import Revoked, push_account
from services.kit.identity.store import create_identity
from services.kit.identity.workers import new_user
from services.worker_manager.credentials import Credentials
from tests.support.raw_nats import control_plane, lets_in, raw_worker
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually

ADA, BOB, EVE = WorkerId("ada"), WorkerId("bob"), WorkerId("eve")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


@pytest.fixture
async def system(server: Server) -> AsyncIterator[Bus]:
    async with control_plane(server, "system") as bus:
        yield bus


def record_of(user: str, until: datetime | None = None) -> WorkerRecord:
    at = datetime.now(UTC)
    return WorkerRecord(
        name=ADA, state="stopping", desired="stopped", spec=CreateWorker(name="ada", agent="shell"),
        requested_at=at, changed_at=at, user_key=user, credential_until=until,
    )  # fmt: skip


async def revoke(server: Server, system: Bus, *users: str) -> None:
    now = int(time.time()) + 1
    await push_account(system, server.identity.workers_account_jwt(dict.fromkeys(users, now)))


async def test_a_revoked_worker_is_thrown_out_and_the_others_stay(
    server: Server, system: Bus
) -> None:
    async with raw_worker(server, ADA) as ada, raw_worker(server, BOB) as bob:
        await revoke(server, system, ada.user.public)

        await eventually(ada.closed.is_set, True)
        assert not await lets_in(server, ada.creds)
        await bob.settled()
        assert not bob.closed.is_set()


async def test_a_list_that_lacks_an_entry_lets_that_worker_in_again(
    server: Server, system: Bus
) -> None:
    """Why one process alone pushes, out of one complete list."""
    async with raw_worker(server, ADA) as ada, raw_worker(server, BOB) as bob:
        await revoke(server, system, ada.user.public)
        await revoke(server, system, ada.user.public, bob.user.public)
        await eventually(lambda: ada.closed.is_set() and bob.closed.is_set(), True)
        assert not await lets_in(server, ada.creds)

        await revoke(server, system, bob.user.public)

        assert await lets_in(server, ada.creds)
        assert not await lets_in(server, bob.creds)


async def test_a_revocation_outlives_the_server_and_a_new_start_of_the_crew(
    server: Server, system: Bus
) -> None:
    async with raw_worker(server, ADA) as ada:
        await revoke(server, system, ada.user.public)
        await eventually(ada.closed.is_set, True)
    await server.kill()
    create_identity(server.state, Topology())
    await server.start_again()

    assert not await lets_in(server, ada.creds)
    async with raw_worker(server, EVE) as eve:
        assert eve.nc.is_connected


async def test_a_worker_of_the_same_name_and_a_new_key_is_somebody_else(
    server: Server, system: Bus
) -> None:
    async with raw_worker(server, ADA) as first:
        await revoke(server, system, first.user.public)
        await eventually(first.closed.is_set, True)

    async with raw_worker(server, ADA) as second:
        await second.settled()
        assert not second.closed.is_set()


async def test_an_account_that_the_server_cannot_take_is_an_error(
    server: Server, system: Bus
) -> None:
    _, claims, _ = server.identity.workers_account_jwt({}).split(".")

    with pytest.raises(ConfigurationInvalid, match="does not take the account"):
        await push_account(system, f"header.{claims}.signature")
    async with raw_worker(server, ADA) as ada:
        assert ada.nc.is_connected


async def test_nobody_but_the_system_account_can_push(server: Server) -> None:
    async with control_plane(server) as manager:
        with pytest.raises(BusUnavailable):
            await push_account(manager, server.identity.workers_account_jwt({}), timeout=1)


async def test_those_who_revoke_at_once_share_a_push_and_all_are_kept_out(tmp_path: Path) -> None:
    """A push for each of a thousand deleted workers would make the last one wait for minutes."""
    async with (
        running_server(tmp_path, applied=True) as server,
        control_plane(server, "manager") as bus,
        control_plane(server, "system") as system,
        raw_worker(server, ADA) as ada,
        raw_worker(server, BOB) as bob,
    ):
        minter = server.identity.minter(())
        credentials = Credentials(bus, server.identity, minter, owner="here")
        pushes = 0

        async def pushed(_: Message) -> None:
            nonlocal pushes
            pushes += 1

        others = [new_user().public for _ in range(48)]
        async with system.serve("$SYS.REQ.CLAIMS.UPDATE", pushed), asyncio.TaskGroup() as group:
            for user in (ada.user.public, *others, bob.user.public):
                group.create_task(credentials.revoke(record_of(user)))

        assert not await lets_in(server, ada.creds)
        assert not await lets_in(server, bob.creds)
        assert 1 <= pushes <= 5


async def test_a_revocation_stands_for_as_long_as_the_longest_credential(tmp_path: Path) -> None:
    """A worker whose task had a day has a credential of a day, however long others live."""
    async with (
        running_server(tmp_path, applied=True) as server,
        control_plane(server, "manager") as bus,
        raw_worker(server, ADA, ttl=86_400) as ada,
    ):
        now = time.time()
        until = datetime.now(UTC) + timedelta(days=1)
        minter = server.identity.minter(())
        await Credentials(bus, server.identity, minter, owner="here").revoke(
            record_of(ada.user.public, until)
        )
        for later in (3 * 3600, 86_400 + 3600):
            clock = lambda later=later: now + later  # noqa: E731
            cleaner = Credentials(bus, server.identity, minter, owner="cleaner", clock=clock)
            await cleaner.push()
            held = await bus.bucket(REVOKED, Revoked).get(ada.user.public)

            assert (held is not None) is (later < 86_400)
            assert await lets_in(server, ada.creds) is (later > 86_400)
