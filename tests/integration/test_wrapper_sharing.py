"""A worker that is given another's conversation, with an agent that is really run."""

import io
import tarfile
from pathlib import Path

import pytest

from contracts.asks import SharedConversation
from contracts.events import Usage
from contracts.topology import HANDED_OVER
from tests.support.agents import with_talker
from tests.support.attempts import Bench
from wrapper.agent import load_agent
from wrapper.usage import Totals

STORED = SharedConversation(stored=True)


@pytest.fixture
def talker(tmp_path: Path) -> Bench:
    return Bench(tmp_path, load_agent(with_talker(tmp_path / "data") / "agents" / "talker.toml"))


def parcel(
    name: str = "s1.talk", data: bytes = b"before\n", kind: bytes = tarfile.REGTYPE
) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "../../outside"
        member.size = len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


async def test_it_goes_on_and_hands_over_what_it_leaves(talker: Bench) -> None:
    talker.parcels.laid_out["conversation"] = parcel()
    counted = Usage(input_tokens=7)
    shared = SharedConversation(stored=True, counted=counted)
    ended = await talker.attempt("now", agent_session="s1", shared=shared)

    assert ended.end.text.splitlines()[:2] == ["before", "now"]
    assert ended.end.conversation is not None
    assert ended.end.conversation.reason == "kept"
    assert Totals(talker.root / "home").of("s1") == counted
    with tarfile.open(fileobj=io.BytesIO(talker.parcels.handed_over["ada/t1/conversation"])) as tar:
        assert tar.getnames() == ["s1.talk"]
    assert not (talker.root / "home/.jetcrew/conversation.tar").exists()


@pytest.mark.parametrize(
    "hostile",
    [
        parcel("../outside"), parcel("s1.talk", kind=tarfile.SYMTYPE), parcel(".bashrc"),
        parcel("s1.talk", b"x" * HANDED_OVER["conversation"]), b"no archive", None,
    ],
    ids=["path", "link", "other", "large", "nonsense", "gone"],
)  # fmt: skip
async def test_what_is_not_fit_is_refused_and_a_fresh_conversation_begins(
    talker: Bench, hostile: bytes | None
) -> None:
    if hostile is not None:
        talker.parcels.laid_out["conversation"] = hostile
    ended = await talker.attempt("now", agent_session="s1", shared=STORED)

    assert ended.state == "succeeded"
    assert ended.end.text.splitlines()[0] == "now"
    assert "The earlier conversation was lost." in ended.end.detail
    assert talker.told.sessions[0][1], "it is told of as a fresh one"
    assert any("the shared session is lost" in note.text for note in talker.told.notes)
    assert not (talker.root / "outside").exists()
    assert not (talker.root / "home/s1.talk").exists()
    assert not (talker.root / "home/.bashrc").exists()


async def test_a_conversation_that_has_grown_too_large_is_told_of(talker: Bench) -> None:
    most = HANDED_OVER["conversation"]
    talker.parcels.laid_out["conversation"] = parcel(data=b"x" * (most - 10_240) + b"\n")
    ended = await talker.attempt("y" * 10_000, agent_session="s1", shared=STORED)

    assert ended.end.conversation is not None
    assert ended.end.conversation.reason == "too-large"
    assert talker.parcels.handed_over == {}


async def test_an_own_conversation_stays_where_it_is(talker: Bench) -> None:
    ended = await talker.attempt("now")

    assert ended.end.conversation is None
    assert talker.parcels.handed_over == {}
