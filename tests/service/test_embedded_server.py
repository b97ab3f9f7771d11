"""The server that `jetcrew up` brings along: one per directory, gone with its parent, back where it was."""

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import nats
import psutil
import pytest

from contracts.errors import ConfigurationInvalid
from contracts.topology import Topology
from services.kit.embedded import EmbeddedServer, PortInUse, ServerFailed, StoreInUse
from services.kit.identity.server import deployment_config
from services.kit.identity.store import create_identity
from services.kit.state import StateDirectory
from tests.support.servers import need_server, plain_server, running_server
from tests.support.waiting import eventually


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    need_server()
    return StateDirectory.at(tmp_path / "state")


def embedded(state: StateDirectory, port: int | None = None) -> EmbeddedServer:
    return EmbeddedServer(state, Topology(), None, port=port)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening() -> set[tuple[str, int]]:
    """Addresses and ports on which something listens on this machine."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.laddr and connection.status == psutil.CONN_LISTEN
    }


async def test_a_second_server_on_the_same_directory_is_refused_with_advice(
    state: StateDirectory,
) -> None:
    async with embedded(state) as first:
        with pytest.raises(StoreInUse, match=rf"process {os.getpid()}.*jetcrew down"):
            await embedded(state).__aenter__()
        assert first.running


async def test_the_directory_is_free_again_after_the_end(state: StateDirectory) -> None:
    async with embedded(state) as first:
        url = first.url
    assert not first.running
    async with embedded(state) as second:
        assert second.url == url


async def test_it_stops_gracefully(state: StateDirectory) -> None:
    async with embedded(state) as server:
        pid = server.pid
    assert await server.exited() == 0
    assert not alive(pid)
    assert "Server Exiting" in server.log_file.read_text()


async def test_one_that_does_not_listen_to_reason_is_killed(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.embedded.STOP_PATIENCE", 0.2)
    async with embedded(state) as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert await server.exited() == -signal.SIGKILL


async def test_a_crash_is_noticed_and_it_comes_back_on_the_same_port_with_all_data(
    state: StateDirectory,
) -> None:
    async with embedded(state) as server:
        url, pid = server.url, server.pid
        nc = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=1)
        js = nc.jetstream()
        await js.add_stream(name="S", subjects=["s"])
        await js.publish("s", b"kept")
        os.kill(pid, signal.SIGKILL)
        assert await server.exited() == -signal.SIGKILL
        assert not server.running

        await server.restart()

        assert server.url == url
        assert server.pid != pid
        await eventually(lambda: nc.is_connected, True)
        assert (await js.get_msg("S", 1)).data == b"kept"
        await nc.close()


async def test_a_port_that_is_asked_for_is_used(state: StateDirectory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with embedded(state, port) as server:
        assert server.url == f"nats://127.0.0.1:{port}"
    async with embedded(state) as server:
        assert server.url == f"nats://127.0.0.1:{port}"


async def test_a_port_in_use_is_an_error_that_says_so_and_frees_the_directory(
    state: StateDirectory,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} .* is in use"):
            await embedded(state, port).__aenter__()
    async with embedded(state) as server:
        assert server.running


async def test_a_kept_port_that_somebody_took_is_replaced(state: StateDirectory) -> None:
    async with embedded(state) as server:
        port = int(server.url.rsplit(":", 1)[1])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        async with embedded(state) as server:
            assert server.url != f"nats://127.0.0.1:{port}"


@pytest.mark.parametrize("port", [70_000, -1])
async def test_an_impossible_port_is_named(state: StateDirectory, port: int) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"{port}"):
        await embedded(state, port).__aenter__()


async def test_a_server_that_ends_at_once_is_quoted(state: StateDirectory) -> None:
    state.nats.mkdir(mode=0o700)
    (state.nats / "js").write_text("in the way")

    with pytest.raises(ServerFailed, match=r"not a directory|could not create"):
        await embedded(state).__aenter__()


async def test_it_listens_on_this_machine_only(state: StateDirectory) -> None:
    async with embedded(state) as server:
        ports = {int(url.rsplit(":", 1)[1]) for url in (server.url, server.monitoring_url)}
        found = {(ip, port) for ip, port in listening() if port in ports}
    assert found == {("127.0.0.1", port) for port in ports}


async def test_it_tells_its_health(state: StateDirectory) -> None:
    async with embedded(state) as server:
        host, port = server.monitoring_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert b'"status":"ok"' in answer


async def test_nobody_but_the_owner_can_read_its_files(tmp_path: Path) -> None:
    async with running_server(tmp_path, applied=True) as server:
        for path in (server.state.nats, *server.state.nats.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o077 == 0, (path, oct(mode))
        assert stat.S_IMODE(server.state.root.stat().st_mode) == 0o700


PARENT = """
import asyncio, sys
from pathlib import Path
from contracts.topology import Topology
from services.kit.embedded import EmbeddedServer
from services.kit.state import StateDirectory

async def main():
    async with EmbeddedServer(StateDirectory.at(Path(sys.argv[1])), Topology(), None) as server:
        print(server.pid, server.url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_ends_with_a_parent_that_is_killed_and_the_next_start_waits_for_that(
    state: StateDirectory,
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(state.root),
        stdout=asyncio.subprocess.PIPE, cwd=Path.cwd(),
    )  # fmt: skip
    assert parent.stdout is not None
    pid, url = (await parent.stdout.readline()).decode().split()
    nc = await nats.connect(url)
    await nc.jetstream().add_stream(name="S", subjects=["s"])
    await nc.jetstream().publish("s", b"kept")
    await nc.close()
    assert alive(int(pid))

    parent.kill()
    await parent.wait()
    async with embedded(state) as server:  # takes the lock once the orphan has let go of it
        assert not alive(int(pid))
        assert server.url == url
        nc = await nats.connect(server.url)
        assert (await nc.jetstream().get_msg("S", 1)).data == b"kept"
        await nc.close()


async def test_a_body_that_is_cancelled_stops_the_server(state: StateDirectory) -> None:
    pids: list[int] = []

    async def run() -> None:
        async with embedded(state) as server:
            pids.append(server.pid)
            await asyncio.sleep(600)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await eventually(lambda: bool(pids), True)
        task.cancel()
    assert not alive(pids[0])


async def test_a_start_that_is_cancelled_leaves_nothing_behind(state: StateDirectory) -> None:
    server = embedded(state)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.__aenter__())
        await eventually(lambda: server.running, True)
        task.cancel()
    assert not server.running
    async with embedded(state) as another:
        assert another.running


async def test_a_plain_server_asks_for_no_credentials(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server:
        nc = await nats.connect(server.url)
        assert nc.is_connected
        await nc.close()


DEPLOYED = Path(__file__).parents[2] / "deploy" / "nats" / "server.conf"


def test_the_configuration_for_deployment_is_the_generated_one() -> None:
    assert DEPLOYED.read_text() == deployment_config(Topology())


async def test_the_configuration_for_deployment_is_one_that_the_server_takes(
    state: StateDirectory, tmp_path: Path
) -> None:
    identity = create_identity(state, Topology())
    directory = tmp_path / "data"
    directory.mkdir()
    config = DEPLOYED.read_text().replace("/data", str(directory))
    (tmp_path / "server.conf").write_text(config)
    (tmp_path / "trust.conf").write_text(identity.trust(directory))

    check = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "nats-server"), "-t", "-c", str(tmp_path / "server.conf"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await check.communicate()

    assert (check.returncode, b"is valid" in said) == (0, True), said
