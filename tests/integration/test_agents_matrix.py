"""What each real agent does against a scripted provider; `just agents` writes the table down.

The agents run as they do in a worker, with the wrapper's own code around them, but in no container: what is
watched here is the agent. Above each row stands whose is in the normal run.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.events import Verdict
from contracts.reports import Finished
from tests.support.attempts import Bench
from tests.support.clis import agent_file, path_with
from tests.support.models import (
    Endpoint,
    Fails,
    Hangs,
    Request,
    Says,
    Stalls,
    Step,
    result,
    scripted_endpoint,
)
from tests.support.rigs import KEY, RIGS, Rig, talk
from tests.support.waiting import eventually
from tests.support.worker import marked
from wrapper.agent import load_agent

DONE = Says(f"Done.\n{result(summary='as asked')}")
SLEEPS = "touch begun; sleep 48; echo over"
GIVES_UP = 300
"""Seconds after which every agent has given up a provider that is down."""
FAST = ("claude", "codex")
"""Those whose turns take a second or two; a row of another takes up to two minutes."""


def normally(*names: str) -> pytest.MarkDecorator:
    """A row of all agents; those that are not named are left to the soak."""
    return pytest.mark.parametrize(
        "rig",
        [
            pytest.param(rig, id=name, marks=() if name in names else pytest.mark.soak)
            for name, rig in RIGS.items()
        ],
    )


@dataclass
class Stand:
    """An agent and the provider that it works against."""

    rig: Rig
    endpoint: Endpoint
    bench: Bench

    def says(self, *steps: Step) -> None:
        """From here on."""
        self.endpoint.script = talk(*steps)

    @property
    def asked(self) -> list[Request]:
        """The requests of the conversation."""
        return [each for each in self.endpoint.requests if "title generator" not in each.said]

    async def begun(self) -> None:
        """Its tool runs."""
        await eventually((self.bench.workspace / "begun").exists, True, 120)


@asynccontextmanager
async def standing(rig: Rig, root: Path) -> AsyncIterator[Stand]:
    path = path_with(rig.agent)
    async with scripted_endpoint(talk(DONE)) as endpoint:
        bench = Bench(
            root, load_agent(agent_file(rig.agent)), path=path, secrets=rig.secrets,
            env=rig.environment(endpoint.url), boot={"instructions": "Always answer in haiku."},
        )  # fmt: skip
        yield Stand(rig, endpoint, bench)


async def work_for_one_that_is_down(stand: Stand) -> Finished:
    stand.says(Fails(500, "broken"))
    return await stand.bench.attempt("go", seconds=GIVES_UP)


async def work_for_one_out_of_reach(stand: Stand) -> Finished:
    stand.bench.env = stand.rig.environment("http://127.0.0.1:9")
    stand.bench.agent = replace(stand.bench.agent, inactivity=stand.rig.patience)
    return await stand.bench.attempt("go", seconds=GIVES_UP)


async def work_for_one_that_stalls(stand: Stand) -> Finished:
    stand.says(Stalls("It begins and"))
    stand.bench.agent = replace(stand.bench.agent, inactivity=stand.rig.patience)
    return await stand.bench.attempt("go", seconds=GIVES_UP)


async def work_past_the_deadline(stand: Stand) -> Finished:
    """The provider hangs, too, for those whose tool goes on in the background."""
    stand.says(stand.rig.shell(SLEEPS), Hangs())
    return await stand.bench.attempt("wait", seconds=stand.rig.patience)


Work = Callable[[Stand], Awaitable[Finished]]
MOSTLY_WAITS: tuple[Work, ...] = (
    work_for_one_that_is_down,
    work_for_one_out_of_reach,
    work_for_one_that_stalls,
    work_past_the_deadline,
)


@dataclass
class Ended:
    """How such work ended."""

    stand: Stand
    done: Finished
    left: list[int]
    """The processes that were there when it had."""
    took: float


@dataclass
class Waiting:
    """The work that mostly waits: a fast agent does all of it at once, when the first of it is asked for."""

    roots: pytest.TempPathFactory
    ended: dict[tuple[str, Work], Ended] = field(default_factory=dict)

    async def of(self, rig: Rig, work: Work) -> Ended:
        """How it ended."""
        if (rig.agent, work) not in self.ended:
            async with asyncio.TaskGroup() as group:
                for each in MOSTLY_WAITS if rig.agent in FAST else (work,):
                    group.create_task(self._do(rig, each))
        return self.ended[rig.agent, work]

    async def _do(self, rig: Rig, work: Work) -> None:
        began = time.monotonic()
        async with standing(rig, self.roots.mktemp(rig.agent)) as stand:
            done = await work(stand)
            left = marked(stand.bench.run)
        self.ended[rig.agent, work] = Ended(stand, done, left, time.monotonic() - began)


Waited = Callable[[Work], Awaitable[Ended]]


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Waiting:
    return Waiting(tmp_path_factory)


@pytest.fixture
def waited(rig: Rig, waiting: Waiting, record_property: Callable[[str, object], None]) -> Waited:
    """Does such work, or knows how it ended beside the other."""

    async def wait(work: Work) -> Ended:
        end = await waiting.of(rig, work)
        record_property("seconds", end.took)
        return end

    return wait


@pytest.fixture
async def stand(rig: Rig, tmp_path: Path) -> AsyncIterator[Stand]:
    async with standing(rig, tmp_path) as made:
        yield made


def why(done: Finished) -> str:
    return f"{done.state}: {done.end.reason}: {done.end.detail} {done.end.text[-500:]}"


@normally(*RIGS)
async def test_a_turn_calls_a_tool_and_the_next_one_remembers_it(stand: Stand) -> None:
    """R21, R26."""
    stand.says(stand.rig.shell("echo made > file"), DONE)

    first = await stand.bench.attempt("Remember the word BLUE42.")
    notes, sessions = stand.bench.told.notes, stand.bench.told.sessions
    second = await stand.bench.attempt("Which word?", agent_session=first.end.agent_session)

    assert (first.state, second.state) == ("succeeded", "succeeded"), why(first) + why(second)
    assert first.end.verdict == Verdict(status="success", summary="as asked")
    assert (stand.bench.workspace / "file").read_text() == "made\n"
    assert [note.kind for note in notes if note.kind.startswith("tool")] == ["tool", "tool-done"]
    assert sessions == [(first.end.agent_session, True)]
    assert [fresh for _, fresh in stand.bench.told.sessions] == [False]
    before, after = stand.asked[0], stand.asked[-1]
    assert "Always answer in haiku." in before.said
    assert "BLUE42" in after.said
    assert {request.key for request in stand.endpoint.requests} == {KEY}
    assert KEY not in stand.bench.told.stdout
    assert first.end.usage is not None
    assert first.end.usage.input_tokens


@normally(*FAST)
async def test_a_third_turn_remembers_and_its_tokens_are_its_own(stand: Stand) -> None:
    """R21, R26."""
    session = None
    used = []
    for word in ("BLUE42", "GREEN7", "RED9"):
        done = await stand.bench.attempt(f"Remember {word}.", agent_session=session)
        assert done.state == "succeeded", why(done)
        session = done.end.agent_session
        assert done.end.usage is not None
        used.append(done.end.usage.input_tokens or 0)

    assert all(word in stand.asked[-1].said for word in ("BLUE42", "GREEN7", "RED9"))
    assert used[2] < used[0] + used[1]


@normally(*FAST)
async def test_a_hostile_result_is_read_whole(stand: Stand) -> None:
    """R22."""
    summary = 'He said "done" \\ and </result> <result>{}</result> 🎉\nnext line'
    example = result("failure", "an example")
    stand.says(Says(f"Such as {example}.\n{result(summary=summary, more='<result>no</r>')}"))

    done = await stand.bench.attempt("go")

    assert done.state == "succeeded", why(done)
    assert done.end.verdict is not None
    assert done.end.verdict.summary == summary
    assert done.end.verdict.data == {"more": "<result>no</r>"}


@normally(*FAST)
async def test_an_answer_without_a_result_is_repaired_in_its_conversation(stand: Stand) -> None:
    """R22."""
    stand.says(Says("All done, I think."), Says(result(summary="repaired")))

    done = await stand.bench.attempt("go")

    assert done.state == "succeeded", why(done)
    assert "All done, I think." in stand.asked[-1].said
    assert "There is no <result> block." in stand.asked[-1].said


@normally(*FAST)
async def test_no_result_when_asked_again_is_a_failure_that_keeps_the_text(stand: Stand) -> None:
    """R22, R23."""
    stand.says(Says("All done, I think."))

    done = await stand.bench.attempt("go")

    assert (done.state, done.end.reason) == ("failed", "no-result")
    assert "All done, I think." in done.end.text


@normally(*FAST)
async def test_a_bad_key_is_named(stand: Stand) -> None:
    """R24."""
    google = stand.rig.agent == "gemini"
    stand.says(Fails(400 if google else 401, "API key not valid", retry=False))

    done = await stand.bench.attempt("go")

    assert (done.state, done.end.reason) == ("failed", "auth"), why(done)
    assert done.end.usage is None


@normally(*FAST)
async def test_a_provider_that_was_asked_too_fast_is_asked_again(stand: Stand) -> None:
    """R24: what does not try again by itself says why it stopped, and goes on later."""
    stand.says(Fails(429, "slow down"), DONE)

    done = await stand.bench.attempt("go")
    if not stand.rig.waits_out_429:
        assert (done.state, done.end.reason) == ("failed", "rate-limited"), why(done)
        done = await stand.bench.attempt("go", agent_session=done.end.agent_session)

    assert done.state == "succeeded", why(done)


@normally(*FAST)
async def test_a_provider_that_is_down_is_given_up(waited: Waited) -> None:
    """R24, R25."""
    end = await waited(work_for_one_that_is_down)

    assert end.done.state == "failed", why(end.done)
    assert end.done.end.reason in ("provider-error", "overloaded")
    assert end.left == []


@normally(*FAST)
async def test_a_provider_that_cannot_be_reached_is_given_up(waited: Waited) -> None:
    """R24, R25: who tries for ever counts as hung, since tries are no sign of life."""
    end = await waited(work_for_one_out_of_reach)

    ended = (end.done.state, end.done.end.reason)
    assert ended in {("failed", "provider-error"), ("timed-out", "inactive")}, why(end.done)
    assert end.left == []


@normally(*FAST)
async def test_an_answer_that_stalls_counts_as_hung(waited: Waited) -> None:
    """R25."""
    end = await waited(work_for_one_that_stalls)

    assert (end.done.state, end.done.end.reason) == ("timed-out", "inactive"), why(end.done)
    assert end.stand.asked
    assert end.left == []


@normally(*FAST)
async def test_a_cancel_in_a_tool_leaves_no_process_and_the_conversation_goes_on(
    stand: Stand,
) -> None:
    """R11, R25."""
    stand.says(stand.rig.shell(SLEEPS), DONE)
    async with asyncio.TaskGroup() as group:
        attempt = group.create_task(stand.bench.attempt("Remember GREEN7 and wait."))
        await stand.begun()
        run = stand.bench.run
        stand.bench.stop.want("cancelled", "cancelled")
    done = attempt.result()
    assert done.state == "cancelled"
    assert done.end.verdict is None
    assert marked(run) == []
    stand.says(DONE)

    again = await stand.bench.attempt("Which word?", agent_session=done.end.agent_session)

    assert again.state == "succeeded", why(again)
    assert "GREEN7" in stand.asked[-1].said


@normally(*FAST)
async def test_a_deadline_in_a_tool_leaves_no_process(waited: Waited) -> None:
    """R11, R25."""
    end = await waited(work_past_the_deadline)

    assert (end.done.state, end.done.end.reason) == ("timed-out", "deadline"), why(end.done)
    assert (end.stand.bench.workspace / "begun").exists()
    assert end.left == []


@normally(*FAST)
async def test_a_prompt_of_half_a_megabyte_arrives(stand: Stand) -> None:
    long = "\n".join(f"line {number} of a long prompt" for number in range(17_000))

    done = await stand.bench.attempt(f"{long}\nthe end ORANGE5")

    assert done.state == "succeeded", why(done)
    assert "ORANGE5" in stand.asked[0].said
    assert len(stand.asked[0].said) > len(long)


@normally(*FAST)
async def test_an_unknown_conversation_begins_anew(stand: Stand) -> None:
    """R21."""
    lost = "ses_00000000000000000000000000" if stand.rig.agent == "opencode" else f"{0:08}-0000-4000-8000-{0:012}"  # fmt: skip

    done = await stand.bench.attempt("go", agent_session=lost)

    assert done.state == "succeeded", why(done)
    assert "conversation was lost" in done.end.detail
    assert [fresh for _, fresh in stand.bench.told.sessions] == [True]
