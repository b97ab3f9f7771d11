"""The verdict: found in whatever an agent writes, or told exactly why not."""

import json

import pytest

from contracts.codec import decode, encode
from contracts.events import Verdict
from wrapper.verdict import EXPLANATION, VerdictProblem, read_verdict, repair_prompt

GOOD = '{"status": "success", "summary": "done", "data": {"n": 1}}'
DONE = Verdict(status="success", summary="done", data={"n": 1})

HOSTILE = 'say "</result>" and \\ and\nnewline and 😀 and <result>not me</r>'


@pytest.mark.parametrize(
    "text",
    [
        f"<result>{GOOD}</result>",
        f"Done.\n\n<result>\n{GOOD}\n</result>\nBye.",
        f"<result>```json\n{GOOD}\n```</result>",
        f"<result>\n```\n{GOOD}\n```\n</result>",
        f"```\n<result>{GOOD}</result>\n```",
        f'<result>{{"status": "failure"}}</result> then <result>{GOOD}</result>',
        f"<result>{GOOD}</result> and then a stray <result>",
        f"<result>{GOOD}</result> <result>{{broken</result>",
        f"{EXPLANATION}\n<result>{GOOD}</result>",
        f"{'x' * 1_000_000}<result>{GOOD}</result>",
    ],
)
def test_the_last_complete_block_is_the_verdict(text: str) -> None:
    assert read_verdict(text) == DONE


def test_a_block_may_hold_tags_quotes_newlines_and_emoji() -> None:
    body = json.dumps({"status": "success", "summary": HOSTILE, "data": {"text": HOSTILE}})

    found = read_verdict(f"ok\n<result>{body}</result>")

    assert found == Verdict(status="success", summary=HOSTILE, data={"text": HOSTILE})


def test_a_block_inside_the_verdicts_own_text_is_not_the_verdict() -> None:
    body = json.dumps({"status": "failure", "summary": "it printed <result>{}</result>"})

    found = read_verdict(f"<result>{body}</result>")

    assert isinstance(found, Verdict)
    assert found.status == "failure"


def test_raw_newlines_in_strings_are_tolerated() -> None:
    found = read_verdict('<result>{"status": "success", "summary": "two\nlines"}</result>')

    assert found == Verdict(status="success", summary="two\nlines")


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", "missing", "no <result>"),
        ("All done, promised.", "missing", "no <result>"),
        ('<result>{"status": "success", "summary": "cut of', "truncated", "breaks off"),
        ("<result>", "truncated", "breaks off"),
        (f"<result>{GOOD}", "truncated", "closing"),
        ('<result>{"status": success}</result>', "broken", "near"),
        ("<result>{'status': 'success'}</result>", "broken", "near"),
        (f"<result>{GOOD} and more</result>", "broken", "instead of </result>"),
        ('<result>["success"]</result>', "not-an-object", "object"),
        ('<result>"success"</result>', "not-an-object", "object"),
        ("<result>{}</result>", "unknown-status", "missing"),
        ('<result>{"status": "done"}</result>', "unknown-status", "success, failure, in_progress"),
        ('<result>{"status": ["success"]}</result>', "unknown-status", "one of"),
        (f"<result>{'[' * 100_000}</result>", "broken", "wrong"),
        (
            '<result>{"status":"success","data":' + "[" * 60 + "]" * 60 + "}</result>",
            "broken",
            "nested",
        ),
        (
            f'<result>{{"status":"success","summary":"{"x" * 300_000}"}}</result>',
            "too-large",
            "bytes",
        ),
        (f'<result>{{"status":"success","data":{{"n":{"9" * 5000}}}}}</result>', "broken", "wrong"),
    ],
)
def test_each_kind_of_missing_verdict_has_a_name_and_a_sentence(
    text: str, kind: str, says: str
) -> None:
    found = read_verdict(text)

    assert isinstance(found, VerdictProblem)
    assert found.kind == kind
    assert says in found.detail
    assert found.detail in repair_prompt(found)


def test_the_latest_complete_block_decides_even_if_an_earlier_one_is_better() -> None:
    found = read_verdict(f'<result>{GOOD}</result> <result>{{"status": "maybe"}}</result>')

    assert isinstance(found, VerdictProblem)
    assert found.kind == "unknown-status"


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_a_block_cut_anywhere_is_a_problem_and_never_a_verdict(cut: int) -> None:
    assert isinstance(read_verdict(f"<result>{GOOD[:cut]}"), VerdictProblem)


@pytest.mark.parametrize(
    "given",
    [
        '"summary": "half a pair \\ud83d"',
        '"data": {"\\ud83d": "\\udc00"}',
        '"data": {"n": 123456789012345678901234567890}',
        '"data": {"n": NaN, "m": Infinity}',
        '"data": null, "summary": null',
        '"data": [1, 2], "summary": {"a": 1}',
    ],
)
def test_any_verdict_found_survives_the_wire(given: str) -> None:
    found = read_verdict(f'<result>{{"status": "success", {given}}}</result>')

    assert isinstance(found, Verdict)
    assert decode(encode(found), Verdict).status == "success"


def test_the_explanation_itself_is_no_verdict() -> None:
    assert isinstance(read_verdict(EXPLANATION), VerdictProblem)


def test_many_openings_are_no_burden() -> None:
    assert isinstance(read_verdict("<result>{" * 200_000), VerdictProblem)
