"""Workers as containers of a real engine: hardened, adopted, their ends told apart, nothing left of them."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import EngineUnavailable, ImageMissing, NotThere
from contracts.worker import Limits, Network
from services.worker_manager.forwarder import Forwarders
from services.worker_manager.runtimes import Unit, UnitSpec
from services.worker_manager.runtimes.docker import DockerRuntime
from services.worker_manager.runtimes.engine import Engine
from tests.support.engine import (
    labelled,
    need_engine,
    proxied_engine,
    remove_everything_of,
    stand_in_image,
)
from tests.support.waiting import eventually

CANARY = "canary-7f3a9c"
WAITS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
IGNORES_TERM = "trap '' TERM; echo up; while :; do sleep 0.05; done"


class Crew:
    """A runtime for a crew that no other test knows."""

    def __init__(self, workers: Path, *, host: str | None = None, crew: str | None = None) -> None:
        self.name = crew or f"test-{secrets.token_hex(4)}"
        self.workers = workers
        self.image = stand_in_image()
        self.engine = Engine(host)
        self.runtime = DockerRuntime(self.engine, crew=self.name, node="here", workers=workers)

    def spec(
        self,
        script: str = WAITS,
        *,
        worker: str = "ada",
        incarnation: int = 1,
        network: Network = "none",
    ) -> UnitSpec:
        files = {
            "boot.json": b"{}",
            "worker.creds": CANARY.encode(),
            "secrets/SCRIPT": script.encode(),
        }
        return UnitSpec(
            worker=worker, incarnation=incarnation, agent="shell", image=self.image, files=files, network=network,
            limits=Limits(memory_mb=128, cpus=1, pids=64),
        )  # fmt: skip

    async def __aenter__(self) -> "Crew":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()

    async def only(self) -> Unit:
        [unit] = await self.runtime.list()
        return unit

    async def ended(self) -> Unit:
        async def state() -> str:
            return (await self.only()).state

        await eventually(state, "exited")
        return await self.only()

    async def is_up(self, worker: str = "ada") -> None:
        async def says() -> bool:
            return "up" in await self.runtime.logs(worker)

        await eventually(says, True)

    def inspect(self, worker: str = "ada") -> dict[str, Any]:
        found: dict[str, Any] = need_engine().api.inspect_container(f"jetcrew-{self.name}.{worker}")
        return found

    def inside(self, command: str, worker: str = "ada") -> str:
        """What a shell line prints in the container."""
        container = need_engine().containers.get(f"jetcrew-{self.name}.{worker}")
        output = container.exec_run(["/bin/sh", "-c", command]).output
        assert isinstance(output, bytes)
        return output.decode().strip()


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """Whatever carries its label is removed afterwards."""
    need_engine()
    async with Crew(tmp_path) as crew:
        yield crew
    await asyncio.to_thread(remove_everything_of, crew.name)


async def test_a_worker_is_hardened_as_its_inspect_says(crew: Crew) -> None:
    await crew.runtime.start(crew.spec())

    found = crew.inspect()
    host = found["HostConfig"]
    assert found["Config"]["User"] == "1000:1000"
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["Init"] is True
    assert host["PidsLimit"] == 64
    assert host["Memory"] == host["MemorySwap"] == 128 * 1_048_576
    assert host["NanoCpus"] == 1_000_000_000
    assert host["NetworkMode"] == "none"
    assert (host["PidMode"], host["IpcMode"], host["UsernsMode"]) == ("", "private", "")
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "2"},
    }
    assert host["RestartPolicy"]["Name"] in {"", "no"}
    assert host["Tmpfs"].keys() == {"/tmp", "/run/cred"}
    assert "noexec" not in host["Tmpfs"]["/tmp"].replace("exec,", "", 1)
    assert {(mount["Destination"], mount["Type"], mount["RW"]) for mount in found["Mounts"]} == {
        ("/workspace", "volume", True), ("/home/worker", "volume", True), ("/run/jetcrew", "bind", False),
    }  # fmt: skip


async def test_from_inside_there_are_no_privileges_and_nothing_to_write_to_but_its_own(
    crew: Crew,
) -> None:
    await crew.runtime.start(crew.spec())

    status = dict(
        line.split(":\t", 1)
        for line in crew.inside("cat /proc/self/status").splitlines()
        if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert crew.inside("id -u; id -g") == "1000\n1000"
    assert "Read-only" in crew.inside("touch /etc/x /run/jetcrew/x 2>&1")
    assert (
        crew.inside("stat -c '%u:%g %a' /run/cred /workspace /home/worker | sort -u")
        == "1000:1000 700\n1000:1000 755"
    )
    assert crew.inside("printf '#!/bin/sh\\necho ran' >/tmp/x; chmod +x /tmp/x; /tmp/x") == "ran"
    assert crew.inside("ls /sys/class/net") == "lo"


async def test_boot_files_are_the_workers_alone_and_never_shown_by_inspect(crew: Crew) -> None:
    await crew.runtime.start(crew.spec())

    assert crew.inside("cat /run/cred/worker.creds") == CANARY
    listed = crew.inside(
        "cd /run/cred; find . -type f ! -name .delivered | sort | xargs stat -c '%n %u %a'"
    )
    assert listed.splitlines() == [
        "./boot.json 1000 600", "./secrets/SCRIPT 1000 600", "./worker.creds 1000 600",
    ]  # fmt: skip
    assert CANARY not in json.dumps(crew.inspect())
    assert CANARY not in await crew.runtime.logs("ada")


async def test_everything_carries_the_labels_of_crew_node_and_worker(crew: Crew) -> None:
    await crew.runtime.start(crew.spec(network="bridge", incarnation=4))
    client = need_engine()
    mine = labelled(crew.name)

    [container] = client.containers.list(filters=mine)
    volumes = client.volumes.list(filters=mine)
    [network] = client.networks.list(filters=mine)

    base = {"jetcrew.crew": crew.name, "jetcrew.node": "here"}
    assert base | {
        "jetcrew.kind": "worker", "jetcrew.worker": "ada", "jetcrew.incarnation": "4",
    } == {key: value for key, value in container.labels.items() if key.startswith("jetcrew.")}  # fmt: skip
    assert sorted(volume.name for volume in volumes) == [
        f"jetcrew-{crew.name}.ada.home", f"jetcrew-{crew.name}.ada.workspace",
    ]  # fmt: skip
    assert all(base.items() <= volume.attrs["Labels"].items() for volume in volumes)
    assert network.attrs["Labels"] == base | {"jetcrew.kind": "network"}


async def test_a_second_start_adopts_the_container_and_leaves_its_files_alone(crew: Crew) -> None:
    first = await crew.runtime.start(crew.spec())
    crew.inside("echo renewed >/run/cred/worker.creds")

    async with Crew(crew.workers, crew=crew.name) as next_manager:
        again = await next_manager.runtime.start(crew.spec())

    assert again == first
    assert again.state == "running"
    assert crew.inside("cat /run/cred/worker.creds") == "renewed"


async def test_a_container_that_never_got_its_files_gets_them_from_the_next_start(
    crew: Crew,
) -> None:
    spec = crew.spec()
    without = UnitSpec(worker="ada", incarnation=1, agent="shell", image=crew.image, network="none")
    first = await crew.runtime.start(without)
    assert await crew.runtime.logs("ada") == ""

    again = await crew.runtime.start(spec)

    assert again.id == first.id
    await crew.is_up()


async def test_another_incarnation_and_an_ended_one_are_replaced(crew: Crew) -> None:
    first = await crew.runtime.start(crew.spec())
    second = await crew.runtime.start(crew.spec(incarnation=2))
    assert (await crew.only()).incarnation == 2
    await crew.runtime.stop("ada", grace=0)

    third = await crew.runtime.start(crew.spec(incarnation=2))

    assert len({first.id, second.id, third.id}) == 3
    assert third.state == "running"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo bye; exit 0", ("exit-0", 0, False, None)),
        ("echo bye; exit 7", ("exit-7", 7, False, None)),
        ("echo bye; kill -KILL $$", ("killed", 137, False, "SIGKILL")),
        ("echo bye; kill -SEGV $$", ("killed", 139, False, "SIGSEGV")),
        ("echo bye; exec tail /dev/zero", ("oom", 137, True, "SIGKILL")),
        ("echo bye; tail /dev/zero; exit 3", ("exit-3", 3, True, None)),
    ],
)
async def test_ends_are_told_apart(
    crew: Crew, script: str, expected: tuple[str, int, bool, str | None]
) -> None:
    stop = asyncio.Event()
    told: list[Unit] = []

    async def watch() -> None:
        async for unit in crew.runtime.exits(stop):
            told.append(unit)
            stop.set()

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        group.create_task(watch())
        await crew.runtime.start(crew.spec(script))
        listed = (await crew.ended()).exit
        told = told or [await crew.only()]
        stop.set()

    assert listed is not None
    assert (listed.reason, listed.code, listed.oom, listed.signal) == expected
    assert listed.log_tail.splitlines()[0] == "bye"
    assert told[0].exit == listed


async def test_an_end_during_an_outage_of_the_engine_is_told_of_after_it(
    crew: Crew, tmp_path: Path
) -> None:
    stop = asyncio.Event()
    told: list[str] = []

    async def watch(runtime: DockerRuntime) -> None:
        async for unit in runtime.exits(stop):
            told.append(unit.worker)  # noqa: PERF401  # as each comes

    async def early_is_told() -> bool:
        # Again and again, for nothing says when the stream is open.
        await crew.runtime.start(crew.spec("exit 1", worker="early"))
        return "early" in told

    await crew.runtime.start(crew.spec(worker="late"))
    async with (
        proxied_engine(tmp_path) as proxy,
        Crew(crew.workers, host=proxy.host, crew=crew.name) as remote,
        asyncio.timeout(120),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(watch(remote.runtime))
        await eventually(early_is_told, True, within=60)
        await proxy.cut()
        with pytest.raises(EngineUnavailable):
            await remote.runtime.list()
        await crew.runtime.stop("late", grace=0)
        await proxy.heal()
        await eventually(lambda: "late" in told, True)
        stop.set()


async def test_stop_lets_the_wrapper_end_by_itself_and_kills_it_when_it_does_not(
    crew: Crew,
) -> None:
    await crew.runtime.start(crew.spec())
    await crew.is_up()
    mild = await crew.runtime.stop("ada", grace=60)
    again = await crew.runtime.stop("ada", grace=60)
    await crew.runtime.start(crew.spec(IGNORES_TERM))
    await crew.is_up()
    hard = await crew.runtime.stop("ada", grace=1)

    assert mild is not None
    assert hard is not None
    assert (mild.reason, mild.log_tail) == ("exit-0", "up")
    assert again == mild
    assert (hard.reason, hard.signal) == ("killed", "SIGKILL")
    assert await crew.runtime.stop("nobody", grace=1) is None


async def test_a_paused_worker_is_frozen_thaws_and_can_be_stopped(crew: Crew) -> None:
    await crew.runtime.start(crew.spec())
    await crew.is_up()

    await crew.runtime.pause("ada")
    await crew.runtime.pause("ada")
    assert (await crew.only()).state == "paused"
    await crew.runtime.resume("ada")
    assert (await crew.only()).state == "running"
    await crew.runtime.pause("ada")
    exit_ = await crew.runtime.stop("ada", grace=60)

    assert exit_ is not None
    assert exit_.reason == "exit-0"
    with pytest.raises(NotThere):
        await crew.runtime.pause("ada")


async def test_workspace_and_home_outlive_the_container_and_stay_the_workers(crew: Crew) -> None:
    await crew.runtime.start(crew.spec())
    crew.inside("echo turn-1 >/home/worker/session; echo work >/workspace/file")
    await crew.runtime.remove("ada", keep_volumes=True)
    assert await crew.runtime.list() == []

    await crew.runtime.start(crew.spec(incarnation=2))

    assert crew.inside("cat /home/worker/session /workspace/file") == "turn-1\nwork"
    assert crew.inside("stat -c %u:%g /home/worker /workspace") == "1000:1000\n1000:1000"


async def test_remove_leaves_nothing_of_the_last_worker(crew: Crew) -> None:
    client = need_engine()
    mine = labelled(crew.name)
    await crew.runtime.start(crew.spec(network="bridge"))
    await crew.runtime.start(crew.spec(worker="bob", network="bridge"))

    await crew.runtime.remove("ada", keep_volumes=False)
    assert len(client.networks.list(filters=mine)) == 1
    await crew.runtime.remove("bob", keep_volumes=False)
    await crew.runtime.remove("bob", keep_volumes=False)

    assert client.containers.list(all=True, filters=mine) == []
    assert client.volumes.list(filters=mine) == []
    assert client.networks.list(filters=mine) == []


async def test_two_workers_on_the_bridge_do_not_reach_each_other(crew: Crew) -> None:
    listens = """python -c "
import socket; s = socket.create_server(('', 8080)); print('up', flush=True)
while True: s.accept()[0].sendall(b'hi')" """
    await crew.runtime.start(crew.spec(listens, network="bridge"))
    await crew.runtime.start(crew.spec(worker="bob", network="bridge"))
    await crew.is_up()
    networks = crew.inspect()["NetworkSettings"]["Networks"]
    address = networks[f"jetcrew-{crew.name}.here"]["IPAddress"]
    reach = "python -c \"import socket; print(socket.create_connection(('{}', 8080), 3).recv(9))\" 2>&1 | tail -1"

    assert crew.inside(reach.format("127.0.0.1")) == "b'hi'"
    assert "b'hi'" not in crew.inside(reach.format(address), worker="bob")


async def test_a_worker_without_a_network_reaches_the_bus_through_its_socket(crew: Crew) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asks = (
        "python -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/jetcrew/bus.sock');"
        ' print(s.recv(99).decode())"'
    )
    async with server, Forwarders("127.0.0.1", port) as forwarders:
        await forwarders.open("ada", crew.workers / "ada" / "bus")
        await crew.runtime.start(crew.spec())

        assert await asyncio.to_thread(crew.inside, asks) == "INFO {}"


async def test_another_node_and_another_crew_on_the_same_engine_are_not_listed(crew: Crew) -> None:
    await crew.runtime.start(crew.spec())

    other_node = DockerRuntime(crew.engine, crew=crew.name, node="there", workers=crew.workers)
    other_crew = DockerRuntime(crew.engine, crew="test-other", node="here", workers=crew.workers)

    assert await other_node.list() == []
    assert await other_crew.list() == []
    assert await other_crew.find("ada") is None
    assert await crew.runtime.list() == [await crew.runtime.find("ada")]


async def test_a_missing_image_is_named_and_nothing_is_left(crew: Crew) -> None:
    crew.image = "jetcrew/worker:no-such-image"

    with pytest.raises(ImageMissing, match="jetcrew/worker:no-such-image"):
        await crew.runtime.start(crew.spec())

    assert await crew.runtime.list() == []


async def test_without_an_engine_nothing_is_known_and_the_reason_is_told(tmp_path: Path) -> None:
    engine = Engine(f"unix://{tmp_path}/none.sock")
    runtime = DockerRuntime(engine, crew="test", node="here", workers=tmp_path)

    reason = await runtime.available()
    with pytest.raises(EngineUnavailable):
        await runtime.list()

    assert reason is not None
    assert "does not answer" in reason
    assert "runtime process" in reason
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    async with asyncio.timeout(30):
        assert [unit async for unit in runtime.exits(stop)] == []
