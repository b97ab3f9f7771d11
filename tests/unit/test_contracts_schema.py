"""Contracts are published, and change by one rule: fields are only added, with defaults (R36)."""

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts import (
    agent,
    asks,
    events,
    evidence,
    image,
    laying,
    letter,
    node,
    project,
    reports,
    repository,
    results,
    schema,
    session,
    task,
    worker,
)
from contracts.schema import MESSAGES, document, dumps, export, violations

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "contracts.json"
MODULES = (
    agent, asks, events, evidence, image, laying, letter, node, project, reports, repository, results,
    session,    task, worker,
)  # fmt: skip


def test_the_published_contracts_are_those_of_this_version() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == dumps(document()), "stale: run `just docs`"


def test_this_version_reads_whatever_was_written_by_the_published_contracts() -> None:
    assert violations(json.loads(REFERENCE.read_text(encoding="utf-8")), document()) == []


def test_every_struct_of_the_contracts_is_part_of_the_document() -> None:
    structs = {
        kind.__name__
        for module in MODULES
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind is not msgspec.Struct
    }

    assert {name for name in structs if not name.startswith("_")} == set(document()["$defs"])


def test_an_export_is_the_same_bytes_each_time_and_every_reference_is_inside(
    tmp_path: Path,
) -> None:
    first, second = export(tmp_path / "a"), export(tmp_path / "b")

    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert {p.stem for p in first} == {"contracts", *MESSAGES}
    for path in first:
        written = json.loads(path.read_text(encoding="utf-8"))
        assert schema._reachable(written, written) <= set(written["$defs"])


def test_nothing_of_our_own_schema_violates_itself() -> None:
    assert violations(document(), document()) == []


CREATE = "$defs/CreateWorker"
GONE = object()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("messages/hb", GONE, "hb: the message is gone"),
        ("$defs/Limits", GONE, "Limits: the type is gone"),
        (f"{CREATE}/properties/env", GONE, "CreateWorker.env: the field is gone"),
        (f"{CREATE}/required", ["name", "agent", "env"], "CreateWorker.env: newly required"),
        (
            f"{CREATE}/properties/name/type",
            "integer",
            'CreateWorker.name: type was "string", is "integer"',
        ),
        (
            f"{CREATE}/properties/runtime/enum",
            ["auto", "process"],
            "CreateWorker.runtime: no longer takes docker",
        ),
        (
            f"{CREATE}/properties/runtime/default",
            "docker",
            'CreateWorker.runtime: default was "auto", is "docker"',
        ),
        (
            f"{CREATE}/properties/env/maxProperties",
            12,
            "CreateWorker.env: maxProperties was 128, is 12",
        ),
        (
            "$defs/Limits/properties/pids/minimum",
            32,
            "Limits.pids: minimum was 16, is 32",
        ),
        (
            "$defs/SubmitTask/properties/prompt/maxLength",
            10,
            "SubmitTask.prompt: maxLength was absent, is 10",
        ),
        (
            f"{CREATE}/properties/capabilities/items/pattern",
            "^[a-z]$",
            "CreateWorker.capabilities[items]: pattern was",
        ),
        (f"{CREATE}/additionalProperties", False, "CreateWorker: additionalProperties"),
        (
            "messages/ctl/anyOf",
            [{"$ref": "#/$defs/Drain"}],
            "ctl: retyped: was one of CancelRun, Drain, is one of Drain",
        ),
        (
            "$defs/Heartbeat/properties/rss_bytes/anyOf",
            [{"type": "string"}],
            "Heartbeat.rss_bytes: retyped",
        ),
    ],
)
def test_a_change_that_breaks_a_reader_is_found_and_named(
    place: str, value: object, said: str
) -> None:
    [violation] = violations(document(), _changed(place, value))

    assert violation.startswith(said)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("messages/new", {"type": "object"}),
        ("$defs/New", {"type": "object"}),
        (f"{CREATE}/properties/shade", {"type": "string", "default": "task"}),
        (f"{CREATE}/properties/runtime/enum", ["auto", "docker", "podman", "process"]),
        (f"{CREATE}/properties/env/maxProperties", 256),
        ("$defs/Limits/properties/pids/minimum", 1),
        (f"{CREATE}/description", "Make a worker."),
    ],
)
def test_a_change_that_only_adds_is_allowed(place: str, value: object) -> None:
    assert violations(document(), _changed(place, value)) == []


def test_a_tagged_union_may_grow() -> None:
    new = copy.deepcopy(document())
    new["messages"]["ctl"]["anyOf"].append({"$ref": "#/$defs/Pause"})

    assert violations(document(), new) == []


def _changed(place: str, value: object) -> dict[str, Any]:
    """The document with one value, at a path of keys, replaced or gone."""
    new = copy.deepcopy(document())
    *parents, last = place.split("/")
    inside = new
    for name in parents:
        inside = inside[name]
    if value is GONE:
        del inside[last]
    else:
        inside[last] = value
    return new
