"""The tour: a crew commanded and observed with the stock `nats` command line alone."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually


def nats_cli() -> str:
    """The stock command line; without it the test is skipped, in CI it fails."""
    path = shutil.which("nats")
    if path is None:
        if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
            pytest.fail("the nats command line is not installed")
        pytest.skip("the nats command line is not installed")
    return path


class Stock:
    """`nats` with an operator's context."""

    def __init__(self, crew: RunningCrew, home: Path) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],  # noqa: TID251  # tests have no settings
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
        }
        self._options = [
            nats_cli(), "--server", crew.server.url, "--creds", str(crew.server.creds("operator")),
            "--inbox-prefix", "_INBOX.ops.operator",
        ]  # fmt: skip

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._options, *words, env=self._environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *words: str, body: bytes = b"", code: int = 0) -> str:
        process = await self.start(*words)
        async with asyncio.timeout(60):
            out, err = await process.communicate(body)
        said = (out + err).decode()
        assert process.returncode == code, said
        return out.decode() or said  # receipts go to stderr


async def up_to(stream: asyncio.StreamReader | None, part: str) -> list[str]:
    """The lines of a process up to one with `part` in it."""
    assert stream is not None
    lines: list[str] = []
    async with asyncio.timeout(60):
        while not lines or part not in lines[-1]:
            line = await stream.readline()
            assert line, lines
            lines.append(line.decode())
    return lines


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    nats_cli()
    async with running_crew(tmp_path) as running:
        yield running


async def test_the_five_commands_of_the_tour(crew: RunningCrew, tmp_path: Path) -> None:
    nats = Stock(crew, tmp_path)
    watching = await nats.start("sub", "jetcrew.evt.>")
    await up_to(watching.stderr, "Subscribing on")

    made = json.loads(
        await nats("req", "jetcrew.api.worker.create",
                   '{"name":"ada","agent":"shell","runtime":"process"}', "--raw")
    )  # fmt: skip
    assert (made["stream"], made["worker"]) == ("JC_CMD", "ada")
    await crew.until("ada", "ready")

    stored = await nats(
        "pub", "-J", "jetcrew.task.ada", '{"prompt":"echo from {{ the }} tour"}',
        "-H", "Nats-Msg-Id:tour-1", "--no-templates",
    )  # fmt: skip
    assert "JC_TASK" in stored
    await crew.ended("tour-1")

    record = json.loads(await nats("kv", "get", "jc_worker", "ada", "--raw"))
    assert (record["name"], record["spec"]["agent"]) == ("ada", "shell")
    task = json.loads(await nats("kv", "get", "jc_task", "tour-1", "--raw"))
    assert task["end"]["text"].strip() == "from {{ the }} tour"

    gone = await nats("pub", "-J", "jetcrew.api.worker.delete", '{"name":"ada"}')
    assert "Stored in Stream: JC_CMD" in gone
    await crew.until("ada", "stopped")

    heard = await up_to(
        watching.stdout, '"worker.stopped"'
    )  # which may be told a moment after it is recorded
    watching.terminate()
    await watching.communicate()
    types = [json.loads(line)["type"] for line in heard if line.startswith("{")]
    told = [kind for kind in types if kind != "task.progress"]
    assert told[:3] == ["worker.requested", "worker.starting", "worker.ready"]
    assert told[-2:] == ["worker.stopping", "worker.stopped"]
    assert len(told) == len(set(told)) + 1, (
        "each once, but worker.ready, which is so before and after the task"
    )


async def test_mistakes_get_one_readable_line(crew: RunningCrew, tmp_path: Path) -> None:
    nats = Stock(crew, tmp_path)

    refused = await nats("pub", "-J", "jetcrew.api.worker.create", '{"name":"ada"}', code=1)
    assert "$.agent: missing (422)" in refused
    absent = await nats("pub", "-J", "jetcrew.api.worker.delete", '{"name":"nobody"}', code=1)
    assert "there is no worker 'nobody' (404)" in absent
    nowhere = await nats("pub", "-J", "jetcrew.nowhere", "{}", code=1)
    assert "no responders" in nowhere.lower()


async def test_a_durable_command_is_answered_under_the_sequence_it_was_given(
    crew: RunningCrew, tmp_path: Path
) -> None:
    nats = Stock(crew, tmp_path)
    stored = await nats("pub", "-J", "jetcrew.cmd.worker.status", '{"name":"nobody"}')
    number = stored.strip().split()[-1]

    async def code() -> int:
        held = await crew.bus.last("JC_RES", f"jetcrew.res.s{number}")
        return int(json.loads(held.data)["error"]["code"]) if held else 0

    await eventually(code, 404)


async def test_a_prompt_of_500_kb_comes_through_standard_input(
    crew: RunningCrew, tmp_path: Path
) -> None:
    nats = Stock(crew, tmp_path)
    await crew.create("ada")
    script = "echo begun\n" + "# padding\n" * 50_000 + "echo ended\n"
    body = json.dumps({"prompt": script}).encode()
    assert len(body) > 500_000

    await nats(
        "pub", "-J", "jetcrew.task.ada", "--force-stdin", "--no-templates", "-H", "Nats-Msg-Id:big-1",
        body=body,
    )  # fmt: skip
    task = await crew.ended("big-1")

    assert task.end is not None
    assert (task.state, task.end.text.split()) == ("succeeded", ["begun", "ended"])
