"""Dead letters from a poisoned command to `jetcrew dlq`: found, read, sent again, dropped (R4)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.bus.deadletter import STREAM, letter_of
from contracts.letter import DeadLetter
from tests.support.cli import Cli, Done
from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually

CREATE = "jetcrew.cmd.worker.create"


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path_factory.mktemp("letters")) as running:
        yield running


class Operator:
    """`jetcrew dlq` with an operator's credential, and the letters it finds."""

    def __init__(self, crew: RunningCrew, directory: Path) -> None:
        self._crew = crew
        self._cli = Cli(
            directory / "state",
            {"JETCREW_URL": crew.server.url, "JETCREW_CREDS": str(crew.server.creds("operator"))},
        )

    async def __call__(self, *words: str) -> Done:
        return await asyncio.to_thread(self._cli, "dlq", *words)

    async def letters(self) -> list[DeadLetter]:
        return [letter_of(stored) for stored in await self._crew.bus.page(STREAM, ">")]

    async def dies(self, subject: str, body: object, reason: str, **headers: str) -> int:
        """Publish what nobody can handle; the letter that it becomes."""
        before = {letter.seq for letter in await self.letters()}
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self._crew.bus.publish(subject, data, headers=headers)
        return await self.new_letter(before, reason)

    async def new_letter(self, before: set[int], reason: str) -> int:
        """The letter that was not there before, once it is."""

        async def fresh() -> int:
            return len([letter for letter in await self.letters() if letter.seq not in before])

        await eventually(fresh, expected=1, within=60)
        [letter] = [letter for letter in await self.letters() if letter.seq not in before]
        assert reason in letter.reason
        return letter.seq


@pytest.fixture
async def dlq(crew: RunningCrew, tmp_path: Path) -> AsyncIterator[Operator]:
    """Each test leaves no letter behind."""
    operator = Operator(crew, tmp_path)
    yield operator
    if left := [letter.seq for letter in await operator.letters()]:
        await crew.ask("dlq.drop", {"letters": left})


def wanting(secret: str, name: str) -> dict[str, Any]:
    return {"name": name, "agent": "shell", "runtime": "process", "secrets": [secret]}


async def test_a_command_that_could_not_be_carried_out_is_redriven_once_it_can(
    crew: RunningCrew, dlq: Operator
) -> None:
    letter = await dlq.dies(CREATE, wanting("LATE", "eve"), 'no secret "LATE" is stored')

    assert CREATE in (await dlq("list")).out
    shown = (await dlq("show", str(letter), "--json")).document
    assert (shown["subject"], shown["stream"], shown["consumer"]) == (CREATE, "JC_CMD", "mgr")
    assert msgspec.json.decode(shown["body"])["name"] == "eve"
    assert '"secrets":["LATE"]' in (await dlq("show", str(letter))).out

    await crew.ask("secret.put", {"name": "LATE", "value": "now it is there"})
    done = await dlq("redrive", str(letter))
    assert (done.code, done.out.split()[:4]) == (0, [str(letter), "redriven", "to", CREATE])
    await crew.until("eve", "ready")
    assert (await dlq("list", "--json")).document == []

    again = await dlq("redrive", str(letter))
    assert again.code == 2
    assert f"there is no dead letter {letter}" in again.complaint


async def test_what_would_only_die_again_stays_and_the_answer_says_why(
    crew: RunningCrew, dlq: Operator
) -> None:
    broken = await dlq.dies(CREATE, b'{"name": ', "not valid JSON")
    wrong = await dlq.dies("jetcrew.task.nobody", {"prompt": 5}, "$.prompt")
    nameless = await dlq.dies("jetcrew.task.No_Such", {"prompt": "x"}, "no worker can be named")

    refused = await dlq("redrive", str(broken))
    assert refused.code == 2
    assert "not valid JSON" in refused.complaint
    all_of_them = await crew.ask("dlq.redrive", {"letters": [wrong, nameless, 999]})
    assert all_of_them.error is not None
    assert all_of_them.error.code == 422
    handled: Any = all_of_them.record
    assert [one["error"]["code"] for one in handled["stuck"]] == [422, 409, 404]
    assert {letter.seq for letter in await dlq.letters()} == {broken, wrong, nameless}

    dropped = await dlq("drop", str(broken), str(nameless), "999")
    assert dropped.code == 1, "not all of them were there"
    assert "there is no dead letter 999" in dropped.err
    assert [letter.seq for letter in await dlq.letters()] == [wrong]


async def test_all_are_those_that_were_there_and_what_dies_of_it_anew_is_left_alone(
    dlq: Operator,
) -> None:
    hopeless = await dlq.dies(CREATE, b"poison", "not valid JSON")
    answer = await dlq.dies(
        "jetcrew.task.eve", {"prompt": "blue"}, "has no question", **{"Jc-Answers": "t999"}
    )
    early = await dlq.dies(CREATE, wanting("NEVER", "mallory"), "no secret")
    before = {hopeless, answer, early}

    done = await dlq("redrive", "--all", "--json")

    assert done.code == 1, done.err
    assert {one["letter"] for one in done.document["redriven"]} == {answer, early}
    assert [one["letter"] for one in done.document["stuck"]] == [hopeless]

    async def reasons() -> list[str]:
        new = [letter for letter in await dlq.letters() if letter.seq not in before]
        return sorted(letter.reason.split(" ")[0] for letter in new)

    await eventually(reasons, expected=["$.secrets[0]:", "task"], within=60)
