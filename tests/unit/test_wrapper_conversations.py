"""Conversations that travel: what is packed, and that nothing else is laid down than what belongs to one."""

import io
import tarfile
from pathlib import Path

import pytest

from contracts.agent import Agent, Turn
from contracts.session import SHARED, is_portable, shared_session
from services.kit.catalog import Catalog
from wrapper.conversations import FILES, NoFiles, TooMuch, Unsafe, files_of, matches, pack, unpack

PATTERNS = ["projects/*/s1.jsonl", "projects/*/s1/**"]
LIMIT = 100_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of an agent's with two conversations and a login."""
    state = tmp_path / "state"
    for name in ("projects/-w/s1.jsonl", "projects/-w/s2.jsonl", "projects/-w/s1/sub/a.json"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text(f"of {name}")
    (state / ".credentials.json").write_text("secret")
    return state


def packed(state: Path, limit: int = LIMIT) -> Path:
    archive = state.parent / "archive"
    pack(state, PATTERNS, archive, limit=limit, redact=lambda text: text)
    return archive


def below(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_one_conversation_travels_and_nothing_else(state: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert unpack(packed(state), there, PATTERNS, limit=LIMIT) == 2

    assert below(there) == {
        "projects/-w/s1.jsonl": "of projects/-w/s1.jsonl",
        "projects/-w/s1/sub/a.json": "of projects/-w/s1/sub/a.json",
    }


def test_what_is_there_of_it_is_replaced_and_the_rest_stays(state: Path) -> None:
    archive = packed(state)
    (state / "projects/-w/s1.jsonl").write_text("older")
    (state / "projects/-w/s2.jsonl").write_text("another's")
    unpack(archive, state, PATTERNS, limit=LIMIT)

    assert below(state)["projects/-w/s1.jsonl"] == "of projects/-w/s1.jsonl"
    assert below(state)["projects/-w/s2.jsonl"] == "another's"


def test_links_are_not_packed(state: Path) -> None:
    (state / "projects/-w/s1.jsonl").unlink()
    (state / "projects/-w/s1.jsonl").symlink_to(state / ".credentials.json")
    (state / "projects/-x").symlink_to(state / "projects/-w")

    with tarfile.open(packed(state)) as tar:
        assert tar.getnames() == ["projects/-w/s1/sub/a.json"]


def test_the_value_of_a_secret_stays_behind(state: Path, tmp_path: Path) -> None:
    (state / "projects/-w/s1.jsonl").write_bytes(b'{"key":"hunter22"} \xff')
    archive = tmp_path / "archive"
    pack(state, PATTERNS, archive, limit=LIMIT, redact=lambda text: text.replace("hunter22", "*"))
    unpack(archive, tmp_path / "there", PATTERNS, limit=LIMIT)

    assert (tmp_path / "there/projects/-w/s1.jsonl").read_bytes() == b'{"key":"*"} \xff'


def test_a_conversation_over_its_bounds_is_not_packed(state: Path, tmp_path: Path) -> None:
    with pytest.raises(TooMuch, match="over the bound of 20 bytes"):
        packed(state, limit=20)
    with pytest.raises(NoFiles):
        pack(state, ["projects/*/s3.jsonl"], tmp_path / "a", limit=LIMIT, redact=str)
    for n in range(FILES):
        (state / f"projects/-w/s1/{n}").touch()
    with pytest.raises(TooMuch, match="1,002 files"):
        packed(state)


def hostile(archive: Path, name: str, kind: bytes = tarfile.REGTYPE, size: int = 4) -> Path:
    """An archive of a good file, and one more."""
    with tarfile.open(archive, "w") as tar:
        for each, of_kind, length in (
            ("projects/-w/s1.jsonl", tarfile.REGTYPE, 4),
            (name, kind, size),
        ):
            member = tarfile.TarInfo(each)
            member.type, member.linkname = of_kind, "../../../outside"
            member.size = length if of_kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil" * (member.size // 4)))
    return archive


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "projects/../../outside", "/outside", "projects/-w/../s1.jsonl",
        "projects//s1.jsonl", "./projects/-w/s1.jsonl", "projects/-w/s1/../../../outside",
        "settings.json", ".credentials.json", "projects/-w/s2.jsonl", "projects/-w/x/s1.jsonl",
        "projects/-w/s1.jsonl", "projects/-w/s1",
    ],
)  # fmt: skip
def test_a_parcel_that_holds_anything_else_is_refused_whole(tmp_path: Path, name: str) -> None:
    archive = hostile(tmp_path / "archive", name)
    with pytest.raises(Unsafe, match="is no file of this conversation"):
        unpack(archive, tmp_path / "state", PATTERNS, limit=LIMIT)

    assert below(tmp_path) == {"archive": archive.read_text()}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_parcel_of_anything_but_plain_files_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = hostile(tmp_path / "archive", "projects/-w/s1/link", kind)
    with pytest.raises(Unsafe, match="is no plain file"):
        unpack(archive, tmp_path / "state", PATTERNS, limit=LIMIT)

    assert not (tmp_path / "state").exists()


def test_a_parcel_over_the_bound_or_of_no_sense_is_refused(tmp_path: Path) -> None:
    big = hostile(tmp_path / "big", "projects/-w/s1/big", size=LIMIT)
    with pytest.raises(Unsafe, match="over the bound"):
        unpack(big, tmp_path / "state", PATTERNS, limit=LIMIT)
    cut = tmp_path / "cut"
    cut.write_bytes(big.read_bytes()[:2000])
    for data in (b"", b"x" * 2000, cut.read_bytes()):
        cut.write_bytes(data)
        with pytest.raises(Unsafe):
            unpack(cut, tmp_path / "state", PATTERNS, limit=LIMIT)

    assert not (tmp_path / "state").exists()


def test_a_link_that_an_agent_laid_leads_nothing_out_of_its_state(
    state: Path, tmp_path: Path
) -> None:
    there, outside = tmp_path / "there", tmp_path / "outside"
    outside.mkdir()
    there.mkdir()
    (there / "projects").symlink_to(outside)
    with pytest.raises(Unsafe, match="'projects' is a link here"):
        unpack(packed(state), there, PATTERNS, limit=LIMIT)

    assert list(outside.iterdir()) == []


def test_an_id_is_a_name_in_a_pattern_and_nothing_more() -> None:
    agent = Agent(
        name="a", version="1", first=Turn(argv=[["a"]]), conversation=["talks/{session}.log"]
    )
    assert not matches("talks/anything.log", files_of(agent, "*"))
    assert matches("talks/*.log", files_of(agent, "*"))
    assert not matches("talks/x/../../a.log", files_of(agent, "x/../../a"))


@pytest.mark.parametrize(
    "session", ["", "--mcp-config=x", "../a", "a/b", "a b", "a\n", "x" * 129, "*", ".hidden"]
)
def test_what_would_be_an_option_or_a_path_is_no_id_that_travels(session: str) -> None:
    assert not is_portable(session)
    assert is_portable("0b9d6a3e-6c5e-4d0f-9c0b-2f8f5ad3c111")


def test_only_a_name_of_the_users_is_shared_and_only_with_an_owner() -> None:
    named = shared_session("team", "claude", "review")
    assert named is not None
    assert named.key == f"{SHARED}.team.claude.review"
    for owner, session in ((None, "review"), ("team", "continue"), ("team", "new")):
        assert shared_session(owner, "claude", session) is None


def test_no_agent_shares_its_logins_or_settings() -> None:
    for agent in Catalog.load().agents.values():
        assert all("{session}" in pattern for pattern in agent.conversation)
        assert agent.resume is not None or not agent.conversation
