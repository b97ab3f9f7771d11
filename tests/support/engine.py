"""A real container engine for tests, and a stand-in for a worker's image."""

import asyncio
import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, NotFound

# Takes its boot files from its socket as a wrapper does, or waits until they are there; then does what the
# secret SCRIPT says.
_ENTRYPOINT = rb"""
import base64, contextlib, json, os, pathlib, socket, sys, time
boot = pathlib.Path("/run/cred")
while not (boot / "boot.json").exists():
    time.sleep(0.02)
    with socket.socket(socket.AF_UNIX) as manager, contextlib.suppress(OSError):
        manager.connect(sys.argv[-1])
        said = manager.makefile("rb")
        said.readline()
        manager.sendall(b"fit\n")
        boot.chmod(0o700)
        os.umask(0o077)
        for name, content in json.loads(said.read())["files"].items():
            (boot / name).parent.mkdir(exist_ok=True)
            (boot / name).write_bytes(base64.b64decode(content))
        manager.sendall(b"taken\n")
os.execvp("sh", ["sh", "/run/cred/secrets/SCRIPT"])
"""
_DOCKERFILE = b"""
FROM python:3.12-slim
RUN mkdir -p /workspace /home/worker /run/cred /run/jetcrew && chown 1000:1000 /workspace /home/worker
LABEL jetcrew.kind=test
COPY entrypoint.py /
ENTRYPOINT ["python", "-I", "/entrypoint.py"]
"""
_FILES = {"Dockerfile": _DOCKERFILE, "entrypoint.py": _ENTRYPOINT}
STAND_IN = f"jetcrew-test/stand-in:{hashlib.sha256(_DOCKERFILE + _ENTRYPOINT).hexdigest()[:12]}"


def need_engine() -> docker.DockerClient:
    """The engine of this machine; without one the test is skipped, or fails where CI is set."""
    client = _client()
    if client is not None:
        return client
    if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
        pytest.fail("no container engine answers")
    pytest.skip("no container engine answers")


@cache
def _client() -> docker.DockerClient | None:
    try:
        client = docker.from_env(timeout=60, max_pool_size=32)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


def build(tag: str, files: Mapping[str, bytes]) -> None:
    """Build an image from a Dockerfile and what it copies; quick when the engine has its layers."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    context.seek(0)
    need_engine().images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)


@cache
def stand_in_image() -> str:
    """Tag of the stand-in, built once a session."""
    build(STAND_IN, _FILES)
    return STAND_IN


def labelled(crew: str) -> dict[str, str | list[str] | bool]:
    """Filter for what carries the crew's label."""
    return {"label": f"jetcrew.crew={crew}"}


def remove_everything_of(crew: str) -> None:
    """Containers, volumes and networks that carry the crew's label, if there is an engine."""
    if (client := _client()) is None:
        return
    label = labelled(crew)
    for container in client.containers.list(all=True, filters=label):
        with contextlib.suppress(NotFound):
            container.remove(force=True, v=True)
    for volume in client.volumes.list(filters=label):
        volume.remove(force=True)
    for network in client.networks.list(filters=label):
        network.remove()


class EngineProxy:
    """A second socket to the engine that can be cut, as if the engine had gone away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[bytes] = []
        """The first line of each connection."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def host(self) -> str:
        """As in DOCKER_HOST."""
        return f"unix://{self.path}"

    async def heal(self) -> None:
        """Answer."""
        self._server = await asyncio.start_unix_server(self._carry, self.path)

    async def cut(self) -> None:
        """End every connection and take no new one."""
        assert self._server is not None
        self._server.close()
        self.path.unlink()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(_engine_socket())
        self._writers |= {writer, far_writer}
        first = await reader.readline()
        self.asked.append(first)
        far_writer.write(first)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, far_writer))
            group.create_task(_pump(far_reader, writer))
        self._writers -= {writer, far_writer}
        writer.transport.abort()
        far_writer.transport.abort()


def _engine_socket() -> str:
    adapter = getattr(need_engine().api, "_custom_adapter", None)
    return str(getattr(adapter, "socket_path", "/var/run/docker.sock"))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def proxied_engine(directory: Path) -> AsyncIterator[EngineProxy]:
    """A proxy that answers, until the block ends."""
    need_engine()
    proxy = EngineProxy(directory / "engine.sock")
    await proxy.heal()
    try:
        yield proxy
    finally:
        await proxy.cut()
