"""Schemas that tasks bring: which are taken, what is held against them, how agents are told."""

import json
from typing import Any

import pytest

from contracts.errors import InvalidMessage
from contracts.events import TaskEnd, Verdict
from services.kit.catalog import Catalog
from services.worker_manager.schemas import check, held_against
from wrapper.answer import AnswerFormat
from wrapper.output import Reading
from wrapper.verdict import VerdictProblem, whole_schema

NUMBER: dict[str, object] = {
    "type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"],
}  # fmt: skip


def end(**data: object) -> TaskEnd:
    return TaskEnd(verdict=Verdict(status="success", summary="done", data=data))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, r"\$\.data_schema\.type: no JSON Schema: 'objekt'"),
        (
            {"properties": {"a": {"$ref": "https://example.org/a"}}},
            r'"\$ref" has to begin with "#"',
        ),
        ({"description": "x" * 20_000}, r"at most 16,384"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidMessage, match=says):
        check(schema)


def test_a_success_whose_data_does_not_match_is_a_failure_that_says_where() -> None:
    check(NUMBER)
    state, told = held_against(NUMBER, "succeeded", end(answer="four"))

    assert (state, told.reason) == ("failed", "bad-result")
    assert told.detail.endswith("$.answer: 'four' is not of type 'number'")
    assert held_against(NUMBER, "succeeded", end(answer=4)) == ("succeeded", end(answer=4))
    assert held_against(NUMBER, "failed", TaskEnd(reason="oom")) == (
        "failed",
        TaskEnd(reason="oom"),
    )
    assert held_against(None, "succeeded", end(answer="x")) == ("succeeded", end(answer="x"))


def test_agents_are_held_to_a_schema_by_their_own_means_or_told() -> None:
    catalog = Catalog.load()
    native = AnswerFormat.of(catalog.agent("claude"), NUMBER)
    told = AnswerFormat.of(catalog.agent("gemini"), NUMBER)

    assert json.loads(native.schema) == whole_schema(NUMBER)
    assert "<result>" not in native.explanation
    assert told.schema == ""
    assert json.dumps(NUMBER, separators=(",", ":")) in told.explanation
    assert AnswerFormat.of(catalog.agent("claude"), None) == AnswerFormat()


def test_what_the_schema_shares_with_itself_stays_within_reach() -> None:
    schema = {
        "$schema": "x",
        "$defs": {"n": {"type": "number"}},
        "properties": {"a": {"$ref": "#/$defs/n"}},
    }
    whole: dict[str, Any] = whole_schema(schema)

    assert whole["$defs"] == {"n": {"type": "number"}}
    assert whole["properties"]["data"] == {"properties": {"a": {"$ref": "#/$defs/n"}}}


@pytest.mark.parametrize(
    "reading",
    [
        Reading(structured={"status": "success", "summary": "s", "data": {"answer": 4}}),
        Reading(text='{"status": "success", "summary": "s", "data": {"answer": 4}}'),
        Reading(
            text='Well.\n<result>{"status": "success", "summary": "s", "data": {"answer": 4}}</result>'
        ),
    ],
    ids=["field", "whole text", "block"],
)
def test_a_structured_answer_is_read_wherever_it_stands(reading: Reading) -> None:
    verdict = AnswerFormat.of(Catalog.load().agent("codex"), NUMBER).read(reading)

    assert verdict == Verdict(status="success", summary="s", data={"answer": 4})


def test_without_a_schema_an_object_alone_is_no_verdict() -> None:
    assert isinstance(AnswerFormat().read(Reading(text='{"status": "success"}')), VerdictProblem)
