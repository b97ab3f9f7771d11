"""The door to the engine, asked by hand: what a hostile worker tries, and what two workers see of each other."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from contracts.worker import Limits
from tests.support.door import DoorOf, Doors, Said, opened_doors
from tests.support.engine import need_engine
from tests.support.waiting import eventually

IMAGE = "debian:bookworm-slim"
SLEEPS = {"Image": IMAGE, "Cmd": ["sleep", "300"], "HostConfig": {"Init": True}}


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    async with opened_doors(tmp_path) as opened:
        yield opened


@pytest.fixture
async def ada(doors: Doors) -> DoorOf:
    return await doors.of("ada")


async def made(door: DoorOf, name: str, body: dict[str, Any] | None = None) -> str:
    said = await door.ask("POST", f"/v1.45/containers/create?name={name}", body or SLEEPS)
    assert said.status == 201, said
    return str(json.loads(said.text)["Id"])


async def running(door: DoorOf, name: str, body: dict[str, Any] | None = None) -> str:
    identity = await made(door, name, body)
    said = await door.ask("POST", f"/v1.45/containers/{identity}/start")
    assert said.status == 204, said
    return identity


def hosting(**fields: Any) -> dict[str, Any]:
    return {**SLEEPS, "HostConfig": fields}


ESCAPES: dict[str, dict[str, Any]] = {
    "privileged": hosting(Privileged=True),
    "privileged, in another case": hosting(privileged=True),
    "a host config in another case": {**SLEEPS, "hostConfig": {"Privileged": True}},
    "a host config with a long s": {**SLEEPS, "HostConfig": {}, "ho\u017ftconfig": {"Binds": ["/:/h"]}},
    "the host's root": hosting(Binds=["/:/host"]),
    "the engine's socket": hosting(Binds=["/var/run/docker.sock:/var/run/docker.sock"]),
    "a way out of the workspace": hosting(Binds=["/workspace/../etc:/etc2"]),
    "a relative path": hosting(Binds=["../../etc:/etc2"]),
    "a mount of the host": hosting(Mounts=[{"Type": "bind", "Source": "/etc", "Target": "/h"}]),
    "a mount of a type unheard of": hosting(Mounts=[{"Type": "npipe", "Source": "/x", "Target": "/h"}]),
    "a volume that is a path of the host": hosting(
        Mounts=[
            {
                "Type": "volume",
                "Source": "v1",
                "Target": "/h",
                "VolumeOptions": {
                    "DriverConfig": {
                        "Name": "local",
                        "Options": {"type": "none", "o": "bind", "device": "/"},
                    }
                },
            }
        ]
    ),
    "a subpath out of a volume": hosting(
        Mounts=[
            {"Type": "volume", "Source": "v1", "Target": "/h", "VolumeOptions": {"Subpath": "../.."}}
        ]
    ),
    "the host's network": hosting(NetworkMode="host"),
    "the host's network as an endpoint": {
        **SLEEPS,
        "NetworkingConfig": {"EndpointsConfig": {"host": {}}},
    },
    "the host's processes": hosting(PidMode="host"),
    "the host's memory": hosting(IpcMode="host"),
    "the host's name": hosting(UTSMode="host"),
    "the host's users": hosting(UsernsMode="host"),
    "the host's cgroups": hosting(CgroupnsMode="host"),
    "another cgroup": hosting(CgroupParent="/"),
    "a device": hosting(Devices=[{"PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem"}]),
    "a rule for devices": hosting(DeviceCgroupRules=["a *:* rwm"]),
    "a graphics card": hosting(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]),
    "a capability": hosting(CapAdd=["SYS_ADMIN"]),
    "no seccomp": hosting(SecurityOpt=["seccomp=unconfined"]),
    "no apparmor": hosting(SecurityOpt=["apparmor=unconfined"]),
    "no masked paths": hosting(MaskedPaths=[]),
    "no read-only paths": hosting(ReadonlyPaths=[]),
    "a kernel setting": hosting(Sysctls={"net.ipv4.ip_forward": "1"}),
    "another runtime": hosting(Runtime="io.containerd.runc.v2"),
    "a setting of the runtime": hosting(Annotations={"run.oci.hooks": "x"}),
    "no out-of-memory killer": hosting(OomKillDisable=True),
    "more memory than the worker": hosting(Memory=1 << 40),
    "all of the memory, twice": hosting(Memory=1 << 62),
    "swap": hosting(Memory=64 << 20, MemorySwap=-1),
    "a port of the host": hosting(PortBindings={"80/tcp": [{"HostPort": "80"}]}),
    "all ports of the host": hosting(PublishAllPorts=True),
    "a logging driver that calls out": hosting(LogConfig={"Type": "syslog", "Config": {}}),
    "a log on the host": hosting(LogConfig={"Type": "json-file", "Config": {"path": "/x"}}),
    "the control plane's labels": {**SLEEPS, "Labels": {"jetcrew.kind": "worker"}},
    "another image": {**SLEEPS, "Image": "jetcrew-test/stand-in:latest"},
    "a registry of its own": {**SLEEPS, "Image": "evil.example/debian:bookworm-slim"},
    "the home of a worker": hosting(Binds=["jetcrew-x.ada.home:/h"]),
    "its own address": {
        **SLEEPS,
        "NetworkingConfig": {
            "EndpointsConfig": {"default": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}
        },
    },
}  # fmt: skip


async def test_no_create_body_gives_more_than_a_worker_may_have(doors: Doors, ada: DoorOf) -> None:
    for version in ("/v1.41", "/v1.45", ""):
        for what, body in ESCAPES.items():
            said = await ada.ask("POST", f"{version}/containers/create?name=escaped", body)
            assert said.status in {400, 403, 404}, (what, said)
            assert said.message, what

    assert doors.changes_asked == []


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode() + body


HOST = "Host: docker"
STOLEN = b'{"Image":"debian:bookworm-slim","HostConfig":{"Privileged":true}}'
_SMUGGLED = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
TRICKS: dict[str, bytes] = {
    "a foreign path": request("GET /v1.45/secrets HTTP/1.1", HOST),
    "a swarm": request("POST /v1.45/swarm/init HTTP/1.1", HOST, "Content-Length: 0"),
    "a plugin": request("POST /plugins/pull?remote=x HTTP/1.1", HOST, "Content-Length: 0"),
    "a build": request("POST /v1.45/build HTTP/1.1", HOST, "Content-Length: 0"),
    "a session": request("POST /session HTTP/1.1", HOST, "Upgrade: h2c", "Connection: Upgrade"),
    "a commit": request("POST /commit?container=x HTTP/1.1", HOST, "Content-Length: 0"),
    "an import": request("POST /images/create?fromSrc=http://x/y HTTP/1.1", HOST, "Content-Length: 0"),
    "a removed image": request("DELETE /images/debian:bookworm-slim HTTP/1.1", HOST),
    "a prune": request("POST /containers/prune HTTP/1.1", HOST, "Content-Length: 0"),
    "a double slash": request("GET //containers/json HTTP/1.1", HOST),
    "a double slash within": request("GET /v1.45//containers/json HTTP/1.1", HOST),
    "a dot segment": request("GET /v1.45/containers/../info HTTP/1.1", HOST),
    "a plain dot": request("GET /./containers/json HTTP/1.1", HOST),
    "an encoded slash": request("GET /containers%2Fjson HTTP/1.1", HOST),
    "an encoded dot": request("GET /containers/%2e%2e/info HTTP/1.1", HOST),
    "a version twice": request("GET /v1.45/v1.45/containers/json HTTP/1.1", HOST),
    "a version long past": request("GET /v1.12/containers/json HTTP/1.1", HOST),
    "an absolute address": request("GET http://docker/containers/json HTTP/1.1", HOST),
    "a tunnel": request("CONNECT docker:80 HTTP/1.1", HOST),
    "a parameter twice": request("GET /containers/json?all=0&all=1 HTTP/1.1", HOST),
    "filters twice": request("GET /containers/json?filters={}&filters=%7B%7D HTTP/1.1", HOST),
    "a parameter unknown": request("GET /containers/json?before=x HTTP/1.1", HOST),
    "two lengths": request(
        "POST /containers/create HTTP/1.1", HOST, "Content-Length: 2", f"Content-Length: {len(STOLEN)}", body=STOLEN
    ),
    "a length and chunks": request(
        "POST /containers/create HTTP/1.1", HOST, "Content-Length: 5", "Transfer-Encoding: chunked",
        body=b"0\r\n\r\n" + _SMUGGLED,
    ),
    "strange chunks": request(
        "POST /containers/create HTTP/1.1", HOST, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"
    ),
    "chunks in disguise": request(
        "POST /containers/create HTTP/1.1", HOST, "Transfer-Encoding : chunked", body=b"0\r\n\r\n"
    ),
    "a wait for a hundred": request(
        "POST /containers/create HTTP/1.1", HOST, "Expect: 100-continue", "Content-Length: 9999"
    ),
    "an old version of HTTP": request("GET /containers/json HTTP/1.0", HOST),
    "a huge head": request("GET /containers/json HTTP/1.1", HOST, f"X-Long: {'x' * 100_000}"),
    "a huge body": request(
        "POST /containers/create HTTP/1.1", HOST, "Content-Length: 3000000", body=b" " * 3_000_000
    ),
    "a deep body": request(
        "POST /containers/create HTTP/1.1", HOST, "Content-Length: 200000", body=b"[" * 200_000
    ),
    "a body that is not JSON": request(
        "POST /containers/create HTTP/1.1", HOST, "Content-Length: 3", body=b"\xff{}"
    ),
    "half a character": request(
        "POST /volumes/create HTTP/1.1", HOST, "Content-Length: 18", body=b'{"Name":"\\ud800x"}'
    ),
    "a null byte": request("GET /containers/js\0on HTTP/1.1", HOST),
    "no HTTP": b"\x16\x03\x01\x00\x05hello\r\n\r\n",
}  # fmt: skip


async def test_no_trick_of_http_reaches_the_engine(doors: Doors, ada: DoorOf) -> None:
    for what, data in TRICKS.items():
        said = await ada.raw(data)
        assert 400 <= said.status < 500 or said.status in {501, 505}, (what, said)
        assert said.message, what

    assert doors.changes_asked == []


async def test_what_follows_a_request_is_not_read_as_another_one(ada: DoorOf) -> None:
    first = request("GET /v1.45/containers/json HTTP/1.1", HOST)
    create = request(
        "POST /containers/create?name=second HTTP/1.1", HOST, f"Content-Length: {len(STOLEN)}", body=STOLEN
    )  # fmt: skip

    said = await ada.raw(first + create, all_of_it=True)

    assert said.text.count("HTTP/1.1") == 1
    assert "connection: close" in said.text.lower()
    assert json.loads((await ada.ask("GET", "/containers/json?all=1")).text) == []


async def test_names_in_a_body_that_come_twice_mean_what_was_checked(ada: DoorOf) -> None:
    body = b'{"Image":"debian:bookworm-slim","HostConfig":{"Privileged":true},"HostConfig":{"Init":true}}'
    said = await ada.raw(
        request("POST /containers/create?name=twice HTTP/1.1", HOST, f"Content-Length: {len(body)}", body=body)
    )  # fmt: skip

    assert said.status == 201
    host = need_engine().api.inspect_container(json.loads(said.text)["Id"])["HostConfig"]
    assert (host["Privileged"], host["Init"]) == (False, True)


async def test_a_container_is_made_smaller_and_weaker_than_its_worker(ada: DoorOf) -> None:
    identity = await made(ada, "small", {"Image": IMAGE, "Volumes": {"/v": {}}})

    found = need_engine().api.inspect_container(identity)
    host = found["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 128 << 20
    assert (host["NanoCpus"], host["PidsLimit"]) == (250_000_000, 64)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["CapDrop"] == ["AUDIT_WRITE", "MKNOD", "NET_RAW"]
    assert (host["CapAdd"], host["Privileged"], host["Devices"]) == (None, False, None)
    assert "/proc/kcore" in host["MaskedPaths"]
    assert found["Config"]["Labels"]["jetcrew.worker"] == "ada"
    [mount] = found["Mounts"]
    volume = need_engine().api.inspect_volume(mount["Name"])
    assert volume["Labels"]["jetcrew.worker"] == "ada"


async def test_running_containers_keep_within_the_workers_limits_together(doors: Doors) -> None:
    ada = await doors.of("ada", limits=Limits(memory_mb=256, cpus=1, pids=64))
    half = {**SLEEPS, "HostConfig": {"Memory": 128 << 20, "Init": True}}
    for name in ("one", "two"):
        await running(ada, name, half)
    third = await made(ada, "three", half)

    refused = await ada.ask("POST", f"/containers/{third}/start")
    assert refused.status == 403
    assert "128 MiB of memory asked, 0 left of this worker's 256" in refused.message

    await ada.ask("DELETE", "/containers/one?force=1")
    assert (await ada.ask("POST", f"/containers/{third}/start")).status == 204


async def test_two_workers_neither_see_nor_touch_each_others_things(doors: Doors) -> None:
    ada, bob = await doors.of("ada"), await doors.of("bob")
    identity = await running(ada, "hers")
    for kind in ("volumes", "networks"):
        assert (await ada.ask("POST", f"/{kind}/create", {"Name": f"hers-{kind}"})).status == 201
    command = json.loads((await ada.ask("POST", "/containers/hers/exec", {"Cmd": ["true"]})).text)[
        "Id"
    ]
    worker = f"jetcrew-{doors.names.crew}.ada"
    before = json.loads((await ada.ask("GET", "/containers/hers/json")).text)

    for ref in ("hers", identity, identity[:12]):
        for method, tail, sent in (
            ("GET", "/json", None), ("GET", "/logs?stdout=1", None), ("GET", "/top", None),
            ("GET", "/stats?stream=0", None), ("GET", "/archive?path=/etc", None), ("POST", "/stop", None),
            ("POST", "/kill", None), ("POST", "/restart", None), ("POST", "/wait", None), ("POST", "/pause", None),
            ("POST", "/rename?name=his", None), ("POST", "/exec", {"Cmd": ["true"]}), ("DELETE", "?force=1", None),
            ("POST", "/attach?stream=1", None),
        ):  # fmt: skip
            assert (await bob.ask(method, f"/containers/{ref}{tail}", sent)).status == 404, tail
        for field in ("NetworkMode", "PidMode", "IpcMode"):
            said = await bob.ask(
                "POST", "/containers/create", hosting(**{field: f"container:{ref}"})
            )
            assert (said.status, said.message) == (400, f"No such container: {ref}"), field
        said = await bob.ask("POST", "/containers/create", hosting(VolumesFrom=[ref]))
        assert said.status == 400
    for method, target, body in (
        ("GET", f"/exec/{command}/json", None), ("POST", f"/exec/{command}/start", {"Detach": True}),
        ("GET", "/volumes/hers-volumes", None), ("DELETE", "/volumes/hers-volumes", None),
        ("GET", "/networks/hers-networks", None), ("DELETE", "/networks/hers-networks", None),
        ("POST", "/networks/hers-networks/connect", {"Container": "bob"}),
        ("GET", f"/containers/{worker}/json", None), ("GET", "/networks/bridge", None),
    ):  # fmt: skip
        assert (await bob.ask(method, target, body)).status == 404, target
    joined = await bob.ask("POST", "/containers/create", hosting(NetworkMode="hers-networks"))
    assert (joined.status, joined.message) == (400, "No such network: hers-networks")
    taken = await bob.ask("POST", "/containers/create", hosting(Binds=["hers-volumes:/v"]))
    assert (taken.status, taken.message) == (
        409,
        "the name 'hers-volumes' is in use on this engine",
    )
    assert (await bob.ask("POST", "/volumes/create", {"Name": "hers-volumes"})).status == 409
    named = await bob.ask("POST", "/containers/create?name=hers", SLEEPS)
    assert named.status == 409
    assert identity not in named.text
    assert (await bob.ask("POST", "/containers/create?name=jetcrew-x.bob", SLEEPS)).status == 403

    for lists in ("/containers/json?all=1", "/networks", "/volumes"):
        assert "hers" not in (await bob.ask("GET", lists)).text
    forged = json.dumps({"label": ["jetcrew.worker=ada"]})
    assert (
        json.loads((await bob.ask("GET", f"/containers/json?filters={quote(forged)}")).text) == []
    )
    assert json.loads((await ada.ask("GET", "/containers/hers/json")).text) == before


class Hijacked:
    """A connection that has given up HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, door: DoorOf, target: str, body: bytes = b"") -> "Hijacked":
        reader, writer = await asyncio.open_unix_connection(door.path)
        head = request(
            f"POST {target} HTTP/1.1", HOST, "Connection: Upgrade", "Upgrade: tcp",
            "Content-Type: application/json", f"Content-Length: {len(body)}", body=body,
        )  # fmt: skip
        writer.write(head)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def frame(self) -> bytes:
        """The next piece of output."""
        async with asyncio.timeout(20):
            header = await self.reader.readexactly(8)
            return await self.reader.readexactly(struct.unpack(">I", header[4:])[0])


async def test_input_ends_and_output_goes_on_over_a_hijacked_connection(ada: DoorOf) -> None:
    await running(ada, "steady")
    command = {"Cmd": ["sh", "-c", "wc -c; echo after"], "AttachStdin": True, "AttachStdout": True}
    made = json.loads((await ada.ask("POST", "/containers/steady/exec", command)).text)["Id"]

    stream = await Hijacked.of(ada, f"/exec/{made}/start", b"{}")
    stream.writer.write(b"x" * 1_000_000)
    stream.writer.write_eof()
    output = b""
    while not output.endswith(b"after\n"):
        output += await stream.frame()

    assert output == b"1000000\nafter\n"
    assert await stream.reader.read() == b""
    stream.writer.close()
    assert json.loads((await ada.ask("GET", f"/exec/{made}/json")).text)["ExitCode"] == 0


async def test_a_worker_that_leaves_a_stream_frees_it(doors: Doors, ada: DoorOf) -> None:
    await running(ada, "steady")
    streams = [
        await Hijacked.of(ada, "/containers/steady/attach?stream=1&stdout=1"),
        await Hijacked.of(ada, "/containers/steady/attach?stream=1&stdin=1&stdout=1"),
    ]
    reader, writer = await asyncio.open_unix_connection(ada.path)
    writer.write(request("GET /containers/steady/logs?stdout=1&follow=1 HTTP/1.1", HOST))
    await reader.readuntil(b"\r\n\r\n")
    assert doors.doors.connections == {"ada": 3}

    for one in (writer, *(stream.writer for stream in streams)):
        one.transport.abort()

    await eventually(lambda: doors.doors.connections == {"ada": 0}, expected=True, within=10)


async def test_an_image_outside_the_list_is_neither_shown_nor_pulled(ada: DoorOf) -> None:
    listed = json.loads((await ada.ask("GET", "/images/json")).text)
    tags = {tag for image in listed for tag in image["RepoTags"]}
    [stand_in] = {i.id for i in need_engine().images.list(name="node:22-slim")} or {""}

    assert tags >= {IMAGE}
    assert all(tag == IMAGE or tag.startswith("python:3.") for tag in tags)
    assert (await ada.ask("GET", "/images/node:22-slim/json")).status == 403
    assert (await ada.ask("GET", f"/images/{stand_in}/json")).status == 404
    for query in (
        "fromImage=node&tag=22-slim",
        "fromImage=debian",
        "fromImage=debian&tag=sid",
        "fromImage=python",
    ):
        refused: Said = await ada.ask("POST", f"/images/create?{query}")
        assert refused.status == 403, query
        assert "debian:bookworm-slim, python:3.*" in refused.message
