"""What breaks, times what it breaks into: each meeting has one typed outcome and leaves nothing behind."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.ids import nonce
from tests.support.containers import container_crew
from tests.support.crew import RunningCrew
from tests.support.engine import EngineProxy, need_engine, proxied_engine
from tests.support.images import worker_image
from tests.support.waiting import eventually

PATIENCE = 120.0
AWAY = 2.0
"""Seconds that a server or an engine stays away."""
FAULTS = ("manager", "server", "engine", "container")
PHASES = ("create", "build", "run", "pause", "delete")
EVERY_TIME = {
    ("manager", "build"),
    ("server", "run"),
    ("engine", "pause"),
    ("container", "create"),
    ("manager", "delete"),
}


@dataclass
class Scene:
    """A crew whose engine can be cut off, and a worker's name."""

    crew: RunningCrew
    engine: EngineProxy
    agent: str

    async def state(self) -> str:
        record = await self.crew.worker("ada")
        return record.state if record else "absent"

    async def create(self, agent: str = "shell") -> None:
        made = await self.crew.ask(
            "worker.create", {"name": "ada", "agent": agent, "runtime": "docker", "network": "none"}
        )
        assert made.error is None, made.error

    def containers(self) -> list[str]:
        label = f"jetcrew.crew={self.crew.server.identity.crew}"
        found = need_engine().containers.list(all=True, filters={"label": label})
        return [str(container.id) for container in found]

    async def breaks(self, fault: str) -> None:
        """Do the damage, and undo what can be undone."""
        match fault:
            case "manager":
                await self.crew.kill_manager()
                await self.crew.start_manager()
            case "server":
                await self.crew.server.kill()
                await asyncio.sleep(AWAY)
                await self.crew.server.start_again()
            case "engine":
                await self.engine.cut()
                await asyncio.sleep(AWAY)
                await self.engine.heal()
            case "container":
                await self._kill()

    async def _kill(self) -> None:
        await eventually(lambda: bool(self.containers()), expected=True, within=PATIENCE)
        for identity in self.containers():
            with contextlib.suppress(Exception):  # it may be gone, or not have been started yet
                need_engine().containers.get(identity).kill()

    async def works(self, task: str) -> None:
        """The worker takes a task and ends it well."""
        await self.crew.submit("ada", "echo fine", task=task)
        done = await self.crew.ended(task, within=PATIENCE)
        assert done.state == "succeeded", done.end


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    need_engine()
    await worker_image("shell")
    agents = tmp_path / "data" / "agents"
    agents.mkdir(parents=True)
    agent = f"slow-{nonce()[:8]}"
    (agents / f"{agent}.toml").write_text(
        f'name = "{agent}"\nversion = "1"\nverdict = "exit-code"\nprompt_via = "file"\n'
        'asks_for_result = false\nfirst = { argv = [["/bin/sh", "{prompt_file}"]] }\n'
        'install = { steps = ["sleep 4"] }\n'
    )
    async with (
        proxied_engine(tmp_path) as engine,
        container_crew(
            tmp_path, DOCKER_HOST=engine.host, JETCREW_DATA=json.dumps([str(tmp_path / "data")])
        ) as crew,
    ):
        yield Scene(crew, engine, agent)
    with contextlib.suppress(Exception):
        for image in need_engine().images.list(filters={"label": f"jetcrew.agent={agent}"}):
            need_engine().images.remove(str(image.id), force=True)


async def create(scene: Scene, fault: str) -> str:
    await scene.create()
    await scene.breaks(fault)
    await scene.crew.until("ada", "ready", within=PATIENCE)
    await scene.works("t-1")
    return "ready, one task done"


async def build(scene: Scene, fault: str) -> str:
    await scene.create(scene.agent)
    await scene.crew.until("ada", "building", within=PATIENCE)
    if fault == "container":
        return await _builder_killed(scene)
    await scene.breaks(fault)
    record = await scene.crew.until("ada", "ready", "failed", within=PATIENCE)
    assert record.state == "ready", record.reason
    await scene.works("t-1")
    return "built, ready, one task done"


async def _builder_killed(scene: Scene) -> str:
    """The container in which the engine runs a step of the build."""

    def killed() -> bool:
        for container in need_engine().containers.list():
            command = " ".join(container.attrs["Config"]["Cmd"] or [])
            if command.endswith("sleep 4"):
                with contextlib.suppress(Exception):
                    container.kill()
                    return True
        return False

    await eventually(killed, expected=True, within=PATIENCE)
    record = await scene.crew.until("ada", "failed", within=PATIENCE)
    assert "sleep 4" in str(record.reason)
    await scene.create()
    await scene.works("t-1")
    return "failed, naming the step; made anew, one task done"


async def run(scene: Scene, fault: str) -> str:
    await scene.create()
    await scene.crew.until("ada", "ready", within=PATIENCE)
    await scene.crew.submit("ada", "echo begun; sleep 5; echo ended", task="t-1")

    async def begun() -> bool:
        return bool(await scene.crew.bus.page("JC_OUT", "jetcrew.out.ada.t-1"))

    await eventually(begun, expected=True, within=PATIENCE)
    await scene.breaks(fault)
    done = await scene.crew.ended("t-1", within=PATIENCE)
    kinds = await scene.crew.kinds("jetcrew.evt.task.ada.t-1.>")
    end = {"container": "failed"}.get(fault, "succeeded")
    assert kinds == ["queued", "started", end], done.end
    await scene.works("t-2")
    reason = f" ({done.end.reason})" if done.end and done.end.reason else ""
    return f"{done.state}{reason}, once; the next task done"


async def pause(scene: Scene, fault: str) -> str:
    await scene.create()
    await scene.crew.until("ada", "ready", within=PATIENCE)
    await scene.crew.ask("worker.pause", {"name": "ada"})
    await scene.crew.until("ada", "paused", within=PATIENCE)
    await scene.breaks(fault)
    await scene.works("t-1")
    return "woken, or replaced; one task done"


async def delete(scene: Scene, fault: str) -> str:
    await scene.create()
    await scene.crew.until("ada", "ready", within=PATIENCE)
    await scene.crew.ask("worker.delete", {"name": "ada"})
    if fault != "container" or scene.containers():
        await scene.breaks(fault)
    await scene.crew.until("ada", "stopped", within=PATIENCE)
    return "stopped"


SCENES: dict[str, Callable[[Scene, str], Awaitable[str]]] = {
    "create": create, "build": build, "run": run, "pause": pause, "delete": delete,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        pytest.param(fault, phase, marks=[] if (fault, phase) in EVERY_TIME else pytest.mark.soak)
        for fault in FAULTS
        for phase in PHASES
    ],
)
async def test_a_fault_has_one_outcome_and_leaves_nothing(
    scene: Scene, fault: str, phase: str
) -> None:
    """R1, R6, R9, R12, R13, R14."""
    outcome = await SCENES[phase](scene, fault)
    print(f"| {fault} | {phase} | {outcome} |")
    if await scene.state() != "stopped":
        assert len(scene.containers()) == 1, "one container for the one worker"
        await scene.crew.ask("worker.delete", {"name": "ada"})
        await scene.crew.until("ada", "stopped", within=PATIENCE)
    label = {"label": f"jetcrew.crew={scene.crew.server.identity.crew}"}

    assert scene.containers() == []
    assert need_engine().volumes.list(filters=label) == []
    consumers = await scene.crew.bus.api("CONSUMER.NAMES.JC_RUN")
    assert not consumers.get("consumers")
    assert len(await scene.crew.kinds("jetcrew.evt.worker.ada.stopped")) == 1
