"""The formats of codex, droid, gemini, opencode and of agents of one's own, read from real captures."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.agent import Agent, JsonAnswer, Turn
from contracts.errors import ConfigurationInvalid
from contracts.events import Usage, Verdict
from wrapper.output import Adapter, Noted, adapter_for
from wrapper.output.claude import ClaudeOutput
from wrapper.output.codex import CodexOutput
from wrapper.output.custom import CustomOutput
from wrapper.output.droid import DroidOutput
from wrapper.output.gemini import GeminiOutput
from wrapper.output.opencode import OpencodeOutput
from wrapper.output.text import TextOutput
from wrapper.verdict import read_verdict

CAPTURES = Path(__file__).parent / "captures"
FORMATS: dict[str, Callable[[], Adapter]] = {
    "claude/stream_json.jsonl": ClaudeOutput,
    "qwen/stream.jsonl": ClaudeOutput,
    "codex/shell.jsonl": CodexOutput,
    "droid/stream_json.jsonl": DroidOutput,
    "gemini/stream.jsonl": GeminiOutput,
    "opencode/shell.jsonl": OpencodeOutput,
}
"""A turn with one call of a shell tool, and who reads it."""


def read(adapter: Adapter, *pieces: bytes) -> list[Noted]:
    return [note for piece in pieces for note in adapter.feed(piece)] + adapter.close()


def capture(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


def lines(*events: object) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.mark.parametrize("name", FORMATS)
def test_a_turn_with_a_tool_is_read_whole(name: str) -> None:
    adapter = FORMATS[name]()

    notes = read(adapter, capture(name))

    reading = adapter.reading
    assert (reading.final, reading.error) == (True, None)
    assert (reading.tools, reading.tools_failed) == (1, 0)
    assert [note.kind for note in notes] == ["text", "tool", "tool-done", "text"]
    assert "echo hi" in notes[1].text
    assert notes[2].text.startswith("ok: ")
    verdict = read_verdict(reading.text)
    assert isinstance(verdict, Verdict)
    assert verdict.data["tool_calls"] == 1


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(data=st.data())
def test_output_cut_anywhere_reads_the_same(name: str, data: st.DataObject) -> None:
    output = capture(name)
    whole = FORMATS[name]()
    expected = read(whole, output)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(output)), max_size=8)) | {0, len(output)})

    adapter = FORMATS[name]()
    notes = read(adapter, *(output[a:b] for a, b in pairwise(cuts)))

    assert notes == expected
    assert adapter.reading == whole.reading


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(data=st.data())
def test_nothing_that_an_agent_prints_breaks_its_adapter(name: str, data: st.DataObject) -> None:
    """Real events with other values in them, and noise between them."""
    events = [json.loads(line) for line in capture(name).splitlines()]
    event = data.draw(st.sampled_from(events))
    spoiled = _spoiled(event, data)
    noise = data.draw(st.binary(max_size=40))

    read(FORMATS[name](), lines(*events), noise + b"\n", lines(spoiled, *events), noise)


def _spoiled(event: object, data: st.DataObject) -> object:
    if isinstance(event, dict) and event:
        name = data.draw(st.sampled_from(sorted(event)))
        return event | {name: _spoiled(event[name], data)}
    return data.draw(NONSENSE)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_of_megabytes_arrives_whole(name: str) -> None:
    long = "x" * 3_000_000
    output = capture(name).replace(b"mock run finished", long.encode())
    adapter = FORMATS[name]()

    read(adapter, *(output[at : at + 65_536] for at in range(0, len(output), 65_536)))

    # In pieces of its own the sentence stands nowhere whole, and nothing was replaced.
    assert long in adapter.reading.text or "mock run finished" in adapter.reading.text


def test_what_codex_used_is_of_the_whole_conversation_and_without_what_was_cached() -> None:
    adapter = CodexOutput()

    tokens = {"input_tokens": 100, "cached_input_tokens": 60, "output_tokens": 7}
    read(adapter, lines({"type": "turn.completed", "usage": tokens}))

    assert adapter.reading.usage == Usage(input_tokens=40, cache_read_tokens=60, output_tokens=7)


@pytest.mark.parametrize(
    ("name", "says"), [("err429", "429 Too Many Requests"), ("invalid_key", "401 Unauthorized")]
)
def test_a_failed_turn_of_codex_tells_its_tries_and_its_reason(name: str, says: str) -> None:
    adapter = CodexOutput()

    notes = read(adapter, capture(f"codex/{name}.jsonl"))

    assert [note.kind for note in notes] == ["retry", "retry"]
    assert adapter.reading.final
    assert says in (adapter.reading.error or "")
    assert adapter.reading.usage is None


def test_an_answer_of_codex_does_not_count_before_its_turn_is_completed() -> None:
    adapter = CodexOutput()

    read(adapter, capture("codex/shell.jsonl").replace(b"turn.completed", b"turn.other"))

    assert adapter.reading.text.startswith("Done.")
    assert not adapter.reading.final


def test_codex_that_waits_for_its_network_has_nothing_to_tell_but_tries() -> None:
    adapter = CodexOutput()

    notes = read(adapter, capture("codex/conn_refused.jsonl"))

    assert {note.kind for note in notes} == {"retry"}
    assert not adapter.reading.final


def test_calls_of_codex_that_began_unseen_are_counted_too() -> None:
    adapter = CodexOutput()
    patch = {"id": "1", "type": "file_change", "changes": [{"path": "a"}], "status": "completed"}
    call = {"id": "2", "type": "mcp_tool_call", "server": "s", "tool": "t", "status": "failed"}

    notes = read(
        adapter, lines(*({"type": "item.completed", "item": item} for item in (patch, call)))
    )

    assert (adapter.reading.tools, adapter.reading.tools_failed) == (2, 1)
    assert [note.text for note in notes][::2] == ['file_change [{"path": "a"}]', "s.t null"]


@pytest.mark.parametrize(
    ("name", "says"), [("stream_err500", '"code":500'), ("stream_invalid_key", "API_KEY_INVALID")]
)
def test_a_failed_turn_of_gemini_has_a_reason_and_no_usage(name: str, says: str) -> None:
    adapter = GeminiOutput()

    read(adapter, capture(f"gemini/{name}.jsonl"))

    assert adapter.reading.final
    assert says in (adapter.reading.error or "")
    assert adapter.reading.usage is None


def test_an_answer_of_gemini_that_breaks_off_is_kept_as_far_as_it_came() -> None:
    adapter = GeminiOutput()

    notes = read(adapter, capture("gemini/stream.jsonl").rpartition(b'{"type":"result"')[0])

    assert adapter.reading.text.startswith("Done.\n<result>")
    assert notes[-1].kind == "text"
    assert not adapter.reading.final


def test_what_droid_used_is_of_this_turn() -> None:
    adapter = DroidOutput()

    read(adapter, capture("droid/stream_json.jsonl"))

    assert adapter.reading.session == "ac6c85cb-5741-487f-9595-a205f967ad07"
    assert adapter.reading.usage == Usage(
        input_tokens=17098, output_tokens=64, cache_read_tokens=0, cache_write_tokens=0,
        turns=2, model="custom:mock-claude",
    )  # fmt: skip


def test_the_reason_of_droids_failure_is_the_error_before_its_last() -> None:
    adapter = DroidOutput()

    read(adapter, capture("droid/stream_err400.jsonl"))

    assert adapter.reading.final
    assert adapter.reading.error is not None
    assert "mock error 400" in adapter.reading.error
    assert adapter.reading.usage is None


@pytest.mark.parametrize(("name", "says"), [("err429", "429 "), ("invalid_key", "401 Incorrect")])
def test_a_failed_turn_of_opencode_has_a_status_and_a_reason(name: str, says: str) -> None:
    adapter = OpencodeOutput()

    read(adapter, capture(f"opencode/{name}.jsonl"))

    assert adapter.reading.final
    assert (adapter.reading.error or "").startswith(says)


def test_the_steps_of_opencode_are_added_up_and_a_price_of_nothing_is_unknown() -> None:
    adapter, free = OpencodeOutput(), OpencodeOutput()

    read(adapter, capture("opencode/shell.jsonl"))
    read(free, capture("opencode/shell.jsonl").replace(b'"cost":0.02', b'"cost":0,"x":0.02'))

    assert adapter.reading.usage == Usage(
        input_tokens=7772 + 7841, output_tokens=49, cache_read_tokens=0, cache_write_tokens=0,
        cost_usd=0.023541 + 0.024033, turns=2,
    )  # fmt: skip
    assert free.reading.usage is not None
    assert free.reading.usage.cost_usd is None


@pytest.mark.parametrize(
    ("reason", "final", "failed"),
    [("tool-calls", False, False), ("stop", True, False), ("length", True, True)],
)
def test_why_the_model_of_opencode_stopped_decides(reason: str, final: bool, failed: bool) -> None:
    adapter = OpencodeOutput()

    read(adapter, lines({"type": "step_finish", "sessionID": "s", "part": {"reason": reason}}))

    assert (adapter.reading.final, adapter.reading.error is not None) == (final, failed)


ANSWER = JsonAnswer(
    text="message.text", last={"type": "end"}, session="meta.id", error="message.error"
)
"""Of an agent of one's own."""


def test_an_agent_of_ones_own_says_where_its_answer_stands() -> None:
    adapter = CustomOutput(ANSWER)

    notes = read(
        adapter,
        lines(
            {"meta": {"id": "s-1"}, "message": {"text": "first", "error": "not yet the end"}},
            {"type": "end", "message": {"text": "second"}},
        ),
    )

    reading = adapter.reading
    assert (reading.session, reading.text, reading.final) == ("s-1", "second", True)
    assert reading.error is None
    assert [note.text for note in notes] == ["first", "second"]


def test_an_agent_of_ones_own_can_fail_in_its_last_event() -> None:
    adapter = CustomOutput(ANSWER)

    read(adapter, lines({"type": "end", "message": {"error": "429 slow down"}}))

    assert (adapter.reading.final, adapter.reading.error) == (True, "429 slow down")


def test_without_a_last_event_its_exit_decides() -> None:
    adapter = CustomOutput(JsonAnswer(text="answer"))

    read(adapter, lines({"answer": "one"}, {"answer": "two"}))

    assert (adapter.reading.text, adapter.ends_with_event) == ("two", False)


def agent(answer: JsonAnswer | None) -> Agent:
    return Agent(name="mine", version="1", first=Turn(argv=[["x"]]), output="jsonl", jsonl=answer)


def test_an_empty_place_for_the_text_means_plain_text() -> None:
    unset = agent(JsonAnswer(text="{env.CUSTOM_TEXT}"))

    assert isinstance(adapter_for(unset, lambda _: ""), TextOutput)
    assert isinstance(adapter_for(unset, lambda _: "answer"), CustomOutput)


def test_lines_of_json_without_a_place_for_the_text_are_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match=r"agent mine: \$\.jsonl: missing"):
        adapter_for(agent(None))
