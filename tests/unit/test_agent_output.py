"""What agents print, read from real captures."""

import json
from pathlib import Path

import pytest

from contracts.events import Usage, Verdict
from wrapper.output import Adapter, Noted
from wrapper.output.claude import ClaudeOutput
from wrapper.output.lines import Lines
from wrapper.output.text import KEPT, TextOutput
from wrapper.verdict import read_verdict

CAPTURES = Path(__file__).parent / "captures"


def read(adapter: Adapter, data: bytes, *, at: int | None = None) -> list[Noted]:
    pieces = [data] if at is None else [data[:at], data[at:]]
    return [note for piece in pieces for note in adapter.feed(piece)] + adapter.close()


def capture(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


def test_a_turn_of_claude_with_a_tool() -> None:
    adapter = ClaudeOutput()

    notes = read(adapter, capture("claude/stream_json.jsonl"))

    reading = adapter.reading
    assert reading.session == "7c02022d-45f1-47e6-bdab-c45fe4b7764a"
    assert reading.final
    assert reading.error is None
    assert (reading.tools, reading.tools_failed) == (1, 0)
    assert reading.usage == Usage(
        input_tokens=25248, output_tokens=54, cache_read_tokens=0, cache_write_tokens=0,
        cost_usd=0.102072, turns=2, model="claude-opus-5-5",
    )  # fmt: skip
    assert [note.kind for note in notes] == ["text", "tool", "tool-done", "text"]
    assert notes[1].text == 'Bash {"command": "echo hi-from-shell; id -un"}'
    assert notes[2].text == "ok: hi-from-shell\nroot"
    verdict = read_verdict(reading.text)
    assert isinstance(verdict, Verdict)
    assert verdict.data == {"tool_calls": 1, "last_output": "hi-from-shell\nroot"}


def test_answers_are_counted_before_the_turn_tells_its_usage() -> None:
    adapter = ClaudeOutput()
    lines = capture("claude/stream_json.jsonl").splitlines(keepends=True)

    for line in lines[:-1]:
        adapter.feed(line)

    assert adapter.reading.usage is None
    assert adapter.reading.so_far is not None
    assert adapter.reading.so_far.turns == 2
    assert (adapter.reading.so_far.input_tokens or 0) <= 25248


@pytest.mark.parametrize(
    "name", ["claude/stream_json.jsonl", "claude/mcp.jsonl", "qwen/stream.jsonl"]
)
def test_output_cut_at_any_byte_reads_the_same(name: str) -> None:
    data = capture(name)
    whole = ClaudeOutput()
    notes = read(whole, data)

    for at in range(0, len(data), 7):
        adapter = ClaudeOutput()
        assert read(adapter, data, at=at) == notes
        assert adapter.reading == whole.reading
    bytewise = ClaudeOutput()
    for byte in data:
        bytewise.feed(bytes([byte]))
    bytewise.close()
    assert bytewise.reading == whole.reading


def test_a_turn_of_qwen_is_read_by_the_same_adapter_and_has_no_price() -> None:
    adapter = ClaudeOutput()

    read(adapter, capture("qwen/stream.jsonl"))

    assert adapter.reading.final
    assert isinstance(read_verdict(adapter.reading.text), Verdict)
    assert adapter.reading.usage is not None
    assert adapter.reading.usage.cost_usd is None
    assert adapter.reading.usage.cache_write_tokens is None


def test_retries_are_told_and_a_stream_that_stops_there_is_not_final() -> None:
    adapter = ClaudeOutput()

    notes = read(adapter, capture("claude/stream_json_invalid_key.jsonl"))

    assert notes[0] == Noted("retry", "attempt 1 of 10: 401, next in 0.5 s")
    assert len(notes) == 9
    assert not adapter.reading.final
    assert adapter.reading.usage is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("err400", "400"),
        ("err429_retries1", "429"),
        ("err500_retries2", "500"),
        ("err529_retries1", "Overloaded"),
        ("invalid_key", "Invalid API key"),
        ("no_key", "Not logged in"),
        ("conn_refused", "ECONNREFUSED"),
        ("env_max_turns", "error_max_turns: Reached maximum number of turns (2)"),
    ],
)
def test_an_error_of_claude_is_an_error_whatever_its_subtype_says(name: str, says: str) -> None:
    adapter = ClaudeOutput()

    read(adapter, capture(f"claude/{name}.json"))

    assert adapter.reading.final
    assert adapter.reading.error is not None
    assert says in adapter.reading.error
    if name != "env_max_turns":  # no model answered: what it used is unknown, not nothing
        assert adapter.reading.usage is None


def test_the_cost_of_two_results_of_one_process_is_their_sum() -> None:
    adapter = ClaudeOutput()

    read(adapter, capture("claude/stream_input.jsonl"))

    assert adapter.reading.usage is not None
    assert adapter.reading.usage.input_tokens == 12576 + 12633
    assert adapter.reading.usage.cost_usd == pytest.approx(0.050844 + 0.051532)


def test_a_total_that_counts_the_whole_conversation_is_not_taken_for_this_turns_cost() -> None:
    adapter = ClaudeOutput()

    read(adapter, capture("claude/resume_memory.json"))

    assert adapter.reading.usage is not None
    assert adapter.reading.usage.cost_usd is None


def test_a_final_event_is_taken_back_when_the_model_goes_on() -> None:
    adapter = ClaudeOutput()
    adapter.feed(b'{"type":"result","is_error":false,"result":"one"}\n')
    first = adapter.reading.final

    adapter.feed(b'{"type":"assistant","message":{"content":[{"type":"text","text":"more"}]}}\n')

    assert first
    assert not adapter.reading.final


def test_queued_turns_put_off_the_end() -> None:
    adapter = ClaudeOutput()

    adapter.feed(b'{"type":"result","is_error":false,"result":"one","queued_turn_count":1}\n')

    assert not adapter.reading.final


@pytest.mark.parametrize(
    "noise",
    [
        b"Warning: something\n",
        b"\xff\xfe\x00\n",
        b"[1,2]\n",
        b'"text"\n',
        b"{}\n",
        b'{"type":7,"session_id":[]}\n',
        b'{"type":"assistant","message":null}\n',
        b'{"type":"assistant","message":{"content":[null,{"type":"text","text":9}]}}\n',
        b'{"type":"result","usage":[],"result":{},"modelUsage":3,"model_usage_since_last_result":[]}\n',
        b'{"type":"user","message":{"content":[{"type":"tool_result","content":[null]}]}}\n',
        b"{" * 100_000 + b"\n",
        b'{"a":' * 5_000 + b"\n",
    ],
)
def test_lines_that_make_no_sense_are_passed_over(noise: bytes) -> None:
    adapter = ClaudeOutput()

    read(adapter, noise + capture("claude/stream_json.jsonl") + noise)

    assert adapter.reading.text.startswith("Done.") or b"result" in noise
    assert adapter.reading.session == "7c02022d-45f1-47e6-bdab-c45fe4b7764a"


def test_half_a_surrogate_pair_does_not_cost_the_answer() -> None:
    adapter = ClaudeOutput()

    read(adapter, b'{"type":"result","is_error":false,"result":"cut \\ud83d here"}\n')

    assert adapter.reading.text == "cut ? here"


def test_a_line_of_megabytes_arrives_whole() -> None:
    adapter = ClaudeOutput()
    text = "x" * 5_000_000
    line = json.dumps({"type": "result", "is_error": False, "result": text}).encode()

    for at in range(0, len(line), 65_536):
        adapter.feed(line[at : at + 65_536])
    adapter.feed(b"\n")

    assert adapter.reading.text == text


def test_a_line_beyond_all_measure_is_skipped_and_the_next_one_read() -> None:
    lines = Lines(longest=10)

    found = [line for piece in (b"aaaa", b"a" * 20, b"a\nok\n") for line in lines.feed(piece)]

    assert found == [b"ok"]
    assert lines.skipped == 1


def test_text_is_kept_from_its_end_and_broken_characters_are_replaced() -> None:
    adapter = TextOutput()

    for _ in range(5):
        adapter.feed(b"y" * KEPT)
    notes = adapter.feed("the end ä".encode()[:-1]) + adapter.close()

    assert len(adapter.reading.text) == KEPT
    assert adapter.reading.text.endswith("the end �")
    assert notes[0].text.startswith("the end")
    assert not adapter.reading.final
