"""A crew forgets what ended long ago, by command and by the clock, and still answers what comes late (R15)."""

from pathlib import Path

import msgspec

from contracts.codec import convert
from contracts.image import Cleaned
from tests.support.cli import Cli
from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually

SOON = {"JETCREW_RETENTION__RECORDS": "1", "JETCREW_CLEANING__SETTLE": "0"}


async def due(crew: RunningCrew) -> set[str]:
    """The records that a cleaning would remove."""
    result = await crew.ask("image.gc", {"dry_run": True}, **{"Jc-Wait": "60"})
    [cleaned] = convert(result.record, list[Cleaned])
    return {f"{one.kind} {one.name}" for one in cleaned.removed if one.kind.endswith("-record")}


async def test_what_ended_long_ago_is_forgotten_and_its_command_is_not(tmp_path: Path) -> None:
    async with running_crew(tmp_path, **SOON) as crew:
        made = {"name": "ada", "agent": "shell", "runtime": "process"}
        await crew.ask("worker.create", made, **{"Nats-Msg-Id": "make-ada"})
        await crew.until("ada", "ready")
        for task in ("first", "second"):
            await crew.submit("ada", "echo hello", task=task)
            await crew.ended(task)
        await crew.ask("worker.delete", {"name": "ada"})
        await crew.until("ada", "stopped")
        records = {"task-record first", "task-record second", "worker-record ada"}
        await eventually(lambda: due(crew), records)
        assert await crew.task("first") is not None

        await crew.ask("image.gc", {}, **{"Jc-Wait": "60"})

        creds = str(crew.server.creds("operator"))
        cli = Cli(crew.server.state.root, {"JETCREW_URL": crew.server.url, "JETCREW_CREDS": creds})
        gone = cli("task", "get", "first")
        assert (gone.code, "no task" in gone.err) == (2, True), gone
        assert (await crew.task("second"), await crew.worker("ada")) == (None, None)
        again = await crew.ask("worker.create", made, **{"Nats-Msg-Id": "make-ada"})
        assert (again.detail, await crew.worker("ada")) == ("requested", None)

        await crew.create("ada")
        worker = await crew.worker("ada")
        assert worker is not None
        assert worker.incarnation == 2


async def test_the_clock_forgets_it_too(tmp_path: Path) -> None:
    async with running_crew(tmp_path, **SOON, JETCREW_CLEANING__EVERY="1") as crew:
        await crew.create("ada")
        await crew.submit("ada", "true", task="once")

        async def told() -> list[dict[str, int]]:
            events = await crew.events("jetcrew.evt.node.*.cleaned")
            return [msgspec.json.decode(event.data)["removed"] for event in events]

        await eventually(told, [{"task-record": 1}], within=60)
        assert await crew.task("once") is None
        assert await crew.worker("ada") is not None
