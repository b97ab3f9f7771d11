"""`python -m services.api`: how it starts, is found, and ends."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.kit.identity.accounts import Accounts
from services.kit.identity.claims import jwt_of_creds, read
from tests.support.raw_nats import raw_role
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds; generous, since it decides nothing but how long a failure takes."""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with running_server(tmp_path_factory.mktemp("process"), applied=True) as server:
        yield server


def environment(server: Server | None, state: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JETCREW_")}  # noqa: TID251  # passed on
    ours = {"JETCREW_STATE_DIR": str(state), "JETCREW_LOG__JSON_LINES": "true"}
    if server is not None:
        ours |= {"JETCREW_URL": server.url, "JETCREW_CREDS": str(server.creds("api"))}
    return kept | ours | more


@asynccontextmanager
async def process(env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The API as a child, ended with the block."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.api", cwd=ROOT, env=env, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ended(env: dict[str, str]) -> tuple[int | None, list[str]]:
    """Exit code and lines of stderr of a process that ends by itself."""
    async with process(env) as child, asyncio.timeout(PATIENCE):
        _, said = await child.communicate()
        return child.returncode, said.decode().splitlines()


async def found(state: Path) -> str:
    """Where the API says that it is."""
    file = state / "api.json"
    await eventually(file.exists, True, within=PATIENCE)
    url: str = json.loads(file.read_text())["url"]
    return url


async def test_it_is_found_by_its_file_and_ends_on_sigterm(server: Server, tmp_path: Path) -> None:
    async with process(environment(server, tmp_path)) as child:
        url = await found(tmp_path)
        told = json.loads((tmp_path / "api.json").read_text())
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            ready = await client.get(f"{url}/readyz")
            async with client.stream("GET", f"{url}/v1/events"):
                child.send_signal(signal.SIGTERM)
                code = await child.wait()

    assert ready.status_code == 200
    assert told["pid"] == child.pid
    assert code == 0
    assert not (tmp_path / "api.json").exists()


async def test_it_does_not_listen_for_others_without_a_token(
    server: Server, tmp_path: Path
) -> None:
    code, said = await ended(environment(server, tmp_path, JETCREW_API__HOST="0.0.0.0"))

    assert code == 2
    assert said == [
        "jetcrew api: JETCREW_API__HOST: 0.0.0.0 can be reached from other hosts: set "
        "JETCREW_API__TOKEN, or listen on 127.0.0.1"
    ]


async def test_with_a_token_it_listens_for_others(server: Server, tmp_path: Path) -> None:
    token = "a-token-that-is-long-enough"
    env = environment(server, tmp_path, JETCREW_API__HOST="0.0.0.0", JETCREW_API__TOKEN=token)
    async with process(env):
        url = await found(tmp_path)
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            without = await client.get(f"{url}/v1/workers")
            known = await client.get(
                f"{url}/v1/workers", headers={"authorization": f"Bearer {token}"}
            )

    assert (without.status_code, known.status_code) == (401, 200)


async def test_a_taken_port_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        code, said = await ended(environment(server, tmp_path, JETCREW_API__PORT=port))

    assert code == 3
    assert len(said) == 1
    assert f"port {port} of 127.0.0.1 is in use" in said[0]


async def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path) -> None:
    code, said = await ended(environment(None, tmp_path, JETCREW_API__PORT="http"))

    assert code == 2
    assert len(said) == 1
    assert said[0].startswith("jetcrew api: JETCREW_API__PORT: ")


async def test_credentials_that_are_not_taken_end_it(server: Server, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.creds"
    async with running_server(tmp_path / "other") as other:
        stranger.write_bytes(other.creds("api").read_bytes())
        stranger.chmod(0o600)

    code, said = await ended(environment(server, tmp_path, JETCREW_CREDS=str(stranger)))

    assert code == 1
    # the server may hang up before it says why
    assert "does not take these credentials" in said[-1]


async def test_it_ends_when_its_credential_is_revoked(tmp_path: Path) -> None:
    """A connection that closes for good ends the process; something above it starts it anew."""
    async with (
        running_server(tmp_path / "nats", applied=True) as server,
        process(environment(server, tmp_path)) as child,
        raw_role(server, "system") as system,
    ):
        await found(tmp_path)
        identity = server.identity
        user = str(read(jwt_of_creds(server.creds("api").read_text()))["sub"])
        readers = Accounts(identity.topology, identity.keys).jwt(
            "READERS",
            identity.key("operator-signing"),
            {user: int(time.time())},
            issued_at=time.time() + 1,
        )
        await system.nc.request("$SYS.REQ.CLAIMS.UPDATE", readers.encode(), timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            _, said = await child.communicate()

    assert child.returncode == 1
    assert "the connection was closed: nats: " in said.decode().splitlines()[-1]
