"""A worker with the capability `docker-cli` uses the real docker command line, through its door to the engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.task import TaskRecord
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import labelled, need_engine, remove_everything_of
from tests.support.images import worker_image
from tests.support.waiting import eventually

IMAGE = "debian:bookworm-slim"
UNTIL_TOLD = "echo first; until [ -e /srv/told ]; do sleep 0.1; done; echo last"
COMPOSE = """
services:
  web:
    image: debian:bookworm-slim
    init: true
    restart: unless-stopped
    command: sh -c 'echo web-says > /data/said && exec sleep 300'
    volumes: ["data:/data", ".:/app:ro", "./part:/part"]
    healthcheck: {test: ["CMD", "test", "-e", "/data/said"], interval: 1s}
  side:
    image: debian:bookworm-slim
    init: true
    mem_limit: 64m
    command: sh -c 'getent hosts web; cat /data/said; exec sleep 300'
    volumes: ["data:/data"]
    depends_on: {web: {condition: service_healthy}}
volumes:
  data:
"""


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    """With doors; nothing of it stays on the engine."""
    need_engine()
    await worker_image("shell", "docker-cli")
    settings = {"JETCREW_ENGINE__ACCESS": "true", "JETCREW_ENGINE__IMAGES": f'["{IMAGE}"]'}
    identity = ""
    try:
        async with running_crew(tmp_path, **settings) as running:
            identity = running.server.identity.crew
            yield running
    finally:
        await asyncio.to_thread(remove_everything_of, identity)


async def start(crew: RunningCrew, name: str, **spec: Any) -> None:
    await crew.create(name, runtime="docker", capabilities=["docker-cli"], **spec)


async def does(crew: RunningCrew, worker: str, script: str, *, task: str) -> TaskRecord:
    await crew.submit(worker, script, task=task)
    return await crew.ended(task)


async def prints(crew: RunningCrew, worker: str, script: str, *, task: str) -> str:
    record = await does(crew, worker, script, task=task)
    assert record.end is not None
    assert record.state == "succeeded", record.end
    return record.end.text.replace("\r", "").replace("\x1b[2K", "").strip()


def children(crew: RunningCrew) -> list[str]:
    """What is on the engine of any worker's."""
    label: Any = {"label": [f"jetcrew.crew={crew.server.identity.crew}", "jetcrew.kind=child"]}
    api = need_engine().api
    return [
        *[each["Names"][0] for each in api.containers(all=True, filters=label)],
        *[each["Name"] for each in api.networks(filters=label)],
        *[each["Name"] for each in api.volumes(filters=label)["Volumes"] or ()],
    ]


async def test_the_docker_command_line_does_its_work_in_a_worker(crew: RunningCrew) -> None:
    await start(crew, "ada")
    script = f"""set -e
        docker run --rm {IMAGE} echo run-says
        echo input | docker run -i --rm {IMAGE} sh -c 'cat; sleep 0.2; echo on-stderr >&2; exit 3' 2>&1 || echo code $?
        script -qec "docker run -it --rm {IMAGE} sh -c 'test -t 0 && echo has-a-terminal'" /dev/null
        docker run -d --name steady {IMAGE} sh -c '{UNTIL_TOLD}' >/dev/null
        docker exec steady echo exec-says
        echo fed | docker exec -i steady cat
        echo here > copied && docker cp -q copied steady:/srv/ && docker cp steady:/srv/copied - | tar -xO
        docker exec -d steady sh -c 'sleep 1; touch /srv/told'
        docker logs -f steady
        docker wait steady
        docker run --rm --network container:$(hostname) {IMAGE} true 2>&1 | head -1
        docker rm -f steady
        docker ps -aq
    """

    lines = (await prints(crew, "ada", script, task="t-1")).splitlines()

    assert lines[:4] == ["run-says", "input", "on-stderr", "code 3"]
    assert "has-a-terminal" in lines[4]
    assert lines[5:11] == ["exec-says", "fed", "here", "first", "last", "0"]
    assert "No such container: ada" in lines[11]
    assert lines[12:] == ["steady"]


async def test_compose_brings_a_project_up_and_down_in_a_worker(crew: RunningCrew) -> None:
    await start(crew, "ada")
    await prints(crew, "ada", f"mkdir part && cat > compose.yaml <<'E'\n{COMPOSE}\nE", task="t-1")
    up = """
        echo whole > file; echo a-part > part/file
        docker compose --progress quiet up -d --wait --quiet-pull
        docker compose ps --format '{{.Service}} {{.State}}'
        docker compose logs --no-log-prefix side
        docker compose exec -T web cat /app/file /part/file
        docker network connect ada_default ada
        getent hosts side >/dev/null && echo the worker sees side
    """

    text = await prints(crew, "ada", up, task="t-2")
    seen = sorted(children(crew))
    down = await prints(
        crew,
        "ada",
        "docker network disconnect ada_default ada; docker compose --progress quiet down -v -t 1; docker ps -aq",
        task="t-3",
    )

    lines = text.splitlines()
    assert sorted(lines[:2]) == ["side running", "web running"]
    assert lines[2].split()[1] == "web"
    assert lines[3:] == ["web-says", "whole", "a-part", "the worker sees side"]
    assert seen == ["/ada-side-1", "/ada-web-1", "ada_data", "ada_default"]
    assert down == ""
    assert children(crew) == []


async def test_what_a_worker_made_ends_with_its_unit_and_with_the_worker(crew: RunningCrew) -> None:
    make = f"docker run -d -v kept:/v --restart always --network $(docker network create net) {IMAGE} sleep 300"

    async def nothing_left() -> bool:
        return await asyncio.to_thread(children, crew) == []

    await start(crew, "ada")
    await prints(crew, "ada", make, task="t-1")
    record = await crew.worker("ada")
    assert record is not None
    assert len(children(crew)) == 3
    need_engine().containers.get(str(record.unit)).kill()
    await eventually(nothing_left, expected=True, within=60)

    await crew.until("ada", "ready")
    await prints(crew, "ada", make, task="t-2")
    await crew.kill_manager()
    await crew.start_manager()
    assert await prints(crew, "ada", "docker ps -q | wc -l", task="t-again") == "1"

    await crew.kill_manager()
    need_engine().containers.get(f"jetcrew-{crew.server.identity.crew}.ada").remove(force=True)
    await crew.start_manager()
    await eventually(nothing_left, expected=True, within=60)

    await crew.until("ada", "ready")
    await prints(crew, "ada", make, task="t-3")
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    label = labelled(crew.server.identity.crew)
    assert children(crew) == []
    assert need_engine().containers.list(all=True, filters=label) == []


async def test_a_worker_without_a_network_has_containers_without_one(crew: RunningCrew) -> None:
    await start(crew, "ada", network="none")
    script = f"""
        docker run --rm {IMAGE} ls /sys/class/net
        docker network create net >/dev/null
        docker run --rm --network net {IMAGE} sh -c 'cat /proc/net/route | wc -l; ls /sys/class/net'
        docker network inspect net --format '{{{{.Internal}}}}'
    """

    text = await prints(crew, "ada", script, task="t-1")

    assert text.split() == ["lo", "2", "eth0", "lo", "true"]


async def test_access_to_the_engine_is_refused_while_it_is_off(tmp_path: Path) -> None:
    async with running_crew(tmp_path) as crew:
        wanted = {"name": "ada", "agent": "shell", "capabilities": ["git", "docker-cli"]}
        off = await crew.ask("worker.create", wanted | {"runtime": "docker"})
        plain = await crew.ask("worker.create", wanted | {"runtime": "process"})

        assert off.error is not None
        assert (off.error.code, off.error.field) == (403, "$.capabilities[1]")
        assert "JETCREW_ENGINE__ACCESS=true" in off.error.description
        assert plain.error is not None
        assert "runtime docker" in plain.error.description
        assert await crew.worker("ada") is None


async def test_what_a_worker_made_is_frozen_with_it_and_removed_with_it(crew: RunningCrew) -> None:
    await start(crew, "ada")
    script = f"for n in steady still; do docker run -d --init --name $n {IMAGE} sleep 300; done; docker pause still"
    await prints(crew, "ada", script, task="t-1")
    await crew.until("ada", "ready")
    assert states(crew) == {"steady": "running", "still": "paused"}

    await crew.ask("worker.pause", {"name": "ada"})
    await crew.until("ada", "paused")
    await eventually(lambda: states(crew), {"steady": "paused", "still": "paused"})
    await crew.ask("worker.resume", {"name": "ada"})
    await crew.until("ada", "ready")
    assert states(crew) == {"steady": "running", "still": "paused"}

    await crew.ask("worker.pause", {"name": "ada"})
    await eventually(lambda: states(crew), {"steady": "paused", "still": "paused"})
    await crew.kill_manager()
    await crew.start_manager()
    said = await prints(crew, "ada", "docker exec steady echo awake", task="t-2")
    assert said == "awake"
    await crew.until("ada", "ready")

    await crew.ask("worker.pause", {"name": "ada"})
    await eventually(lambda: states(crew)["steady"], "paused")
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    assert children(crew) == []


def states(crew: RunningCrew) -> dict[str, str]:
    """Of the containers that workers made, by name."""
    label: Any = {"label": [f"jetcrew.crew={crew.server.identity.crew}", "jetcrew.kind=child"]}
    listed = need_engine().api.containers(all=True, filters=label)
    return {each["Names"][0].removeprefix("/"): each["State"] for each in listed}
