"""Every message as JSON Schema, and the rule by which the schemas may change.

Fields are only ever added, with defaults. `violations` says where a newer document breaks that rule;
the document of the last release stands in docs/reference/contracts.json.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from contracts import __version__
from contracts.agent import Agent, Capability
from contracts.asks import (
    Assignment,
    Berth,
    Boot,
    BootFiles,
    Control,
    CredentialAnswer,
    GetPiece,
    HandedOver,
    KeepArtifact,
    PieceAnswer,
    PutPiece,
    RenewCredential,
    StartAnswer,
    StartTask,
)
from contracts.events import Event
from contracts.evidence import Evidence
from contracts.image import Cleaned, CleanUp, ImageRecord
from contracts.laying import LayOut, LayPiece
from contracts.letter import DeadLetter, DropLetters, LettersHandled, RedriveLetters
from contracts.node import NodeRecord
from contracts.project import ArchiveProject, CreateProject, ProjectRecord, UpdateProject
from contracts.reports import Heartbeat, Output, Report
from contracts.results import Result
from contracts.session import ForgetSession, SessionRecord
from contracts.task import AnswerTask, CancelTask, SubmitTask, TaskRecord
from contracts.worker import (
    CreateWorker,
    DeleteWorker,
    ExecInWorker,
    ExecOutcome,
    PauseWorker,
    PutSecret,
    ResumeWorker,
    StatusOfWorker,
    WorkerRecord,
)

Json = dict[str, Any]

MESSAGES: dict[str, Any] = {
    "cmd.worker.create": CreateWorker,
    "cmd.worker.delete": DeleteWorker,
    "cmd.worker.pause": PauseWorker,
    "cmd.worker.resume": ResumeWorker,
    "cmd.worker.status": StatusOfWorker,
    "cmd.task.cancel": CancelTask,
    "cmd.task.answer": AnswerTask,
    "cmd.session.forget": ForgetSession,
    "cmd.image.gc": CleanUp,
    "cmd.dlq.redrive": RedriveLetters,
    "cmd.dlq.drop": DropLetters,
    "cmd.project.create": CreateProject,
    "cmd.project.update": UpdateProject,
    "cmd.project.archive": ArchiveProject,
    "api.secret.put": PutSecret,
    "api.worker.exec": ExecInWorker,
    "api.artifact.put": LayPiece,
    "api.artifact.keep": LayOut,
    "task": SubmitTask,
    "run": Assignment,
    "rep": Report,
    "out": Output,
    "hb": Heartbeat,
    "ctl": Control,
    "ask.task.start": StartTask,
    "ask.task.start.answer": StartAnswer,
    "ask.credential": RenewCredential,
    "ask.credential.answer": CredentialAnswer,
    "node.clean": CleanUp,
    "node.clean.answer": Cleaned,
    "node.exec": ExecInWorker,
    "node.exec.answer": Result,
    "exec.outcome": ExecOutcome,
    "dlq.letter": DeadLetter,
    "dlq.outcome": LettersHandled,
    "ask.artifact.put": PutPiece,
    "ask.artifact.put.answer": HandedOver,
    "ask.artifact.keep": KeepArtifact,
    "ask.artifact.keep.answer": HandedOver,
    "ask.artifact.get": GetPiece,
    "ask.artifact.get.answer": PieceAnswer,
    "evt": Event,
    "res": Result,
    "kv.jc_worker": WorkerRecord,
    "kv.jc_task": TaskRecord,
    "kv.jc_session": SessionRecord,
    "kv.jc_node": NodeRecord,
    "kv.jc_image": ImageRecord,
    "kv.jc_project": ProjectRecord,
    "object.evidence": Evidence,
    "boot.berth": Berth,
    "boot.files": BootFiles,
    "file.boot": Boot,
    "file.agent": Agent,
    "file.capability": Capability,
}
"""What each subject carries, by the subject's fixed tokens; `.answer` is what comes back, `kv.` the
records of a bucket, `object.` what the object store holds, `boot.` what passes over a worker's boot socket,
`file.` the files that are read with the same decoder."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{name}"
_TIGHTER_BELOW = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_TIGHTER_ABOVE = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


def document() -> Json:
    """All messages in one schema document: `messages` by name, the types they share in `$defs`."""
    schemas, components = msgspec.json.schema_components(
        MESSAGES.values(), ref_template=_REF, schema_hook=_anything
    )
    return {
        "$schema": _DIALECT,
        "title": "jetcrew contracts",
        "version": __version__,
        "messages": dict(zip(MESSAGES, schemas, strict=True)),
        "$defs": dict(sorted(components.items())),
    }


def message_documents() -> dict[str, Json]:
    """One self-contained schema for each message, by the message's name."""
    whole = document()
    return {
        name: {
            "$schema": _DIALECT,
            "title": name,
            **schema,
            "$defs": {ref: whole["$defs"][ref] for ref in sorted(_reachable(schema, whole))},
        }
        for name, schema in whole["messages"].items()
    }


def export(directory: Path) -> list[Path]:
    """Write `contracts.json` and a `messages/NAME.json` for each message; the paths written.

    The directory is made; the same version always writes the same bytes.
    """
    documents = {directory / "contracts.json": document()} | {
        directory / "messages" / f"{name}.json": schema
        for name, schema in message_documents().items()
    }
    for path, schema in documents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumps(schema), encoding="utf-8")
    return list(documents)


def dumps(schema: Json) -> str:
    """The one way a schema is written to a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def violations(old: Json, new: Json) -> list[str]:
    """Where `new` would not read, or not mean, what was written by the rules of `old`.

    Allowed are: messages, types and fields that are new (fields with a default), values added to an
    enumeration or a union, bounds that widen. Each violation is one sentence beginning with its place.
    """
    found: list[str] = []
    for name, schema in old["messages"].items():
        if name not in new["messages"]:
            found.append(f"{name}: the message is gone")
        else:
            found += _changes(name, schema, new["messages"][name])
    for name, schema in old["$defs"].items():
        if name not in new["$defs"]:
            found.append(f"{name}: the type is gone")
        else:
            found += _changes(name, schema, new["$defs"][name])
    return found


def _anything(kind: type) -> Json:
    """`object` is what an agent or a caller puts there: any JSON."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise TypeError(f"no schema for {kind}")


def _changes(at: str, old: Json, new: Json) -> Iterator[str]:
    for key in ("type", "$ref", "const", "format", "pattern", "default"):
        if old.get(key) != new.get(key):
            yield f"{at}: {key} was {_said(old, key)}, is {_said(new, key)}"
    for key in _TIGHTER_BELOW:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{at}: {key} was {_said(old, key)}, is {new[key]}"
    for key in _TIGHTER_ABOVE:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{at}: {key} was {_said(old, key)}, is {new[key]}"
    if gone := [value for value in old.get("enum", []) if value not in new.get("enum", [])]:
        yield f"{at}: no longer takes {', '.join(map(str, gone))}"
    yield from _alternatives(at, old, new)
    yield from _fields(at, old, new)
    for key in ("items", "additionalProperties", "propertyNames"):
        before, after = old.get(key, True), new.get(key, True)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(f"{at}[{key}]", before, after)
        elif before != after and after is not True:
            yield f"{at}: {key} narrows"


def _alternatives(at: str, old: Json, new: Json) -> Iterator[str]:
    """A tagged union may grow; any other set of alternatives is a field's type and stays."""
    before, after = old.get("anyOf", []), new.get("anyOf", [])
    gone = [option for option in before if option not in after]
    grown = [option for option in after if option not in before]
    if gone or (grown and "discriminator" not in new):
        yield f"{at}: retyped: was one of {_names(before)}, is one of {_names(after)}"


def _fields(at: str, old: Json, new: Json) -> Iterator[str]:
    after = new.get("properties", {})
    for name, schema in old.get("properties", {}).items():
        if name not in after:
            yield f"{at}.{name}: the field is gone"
        else:
            yield from _changes(f"{at}.{name}", schema, after[name])
    for name in new.get("required", []):
        if name not in old.get("required", []):
            yield f"{at}.{name}: newly required"


def _said(schema: Json, key: str) -> str:
    return json.dumps(schema[key]) if key in schema else "absent"


def _names(options: list[Json]) -> str:
    return ", ".join(option.get("$ref", json.dumps(option)).split("/")[-1] for option in options)


def _reachable(schema: Json, whole: Json) -> set[str]:
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        for ref in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(waiting.pop())):
            if ref not in found:
                found.add(ref)
                waiting.append(whole["$defs"][ref])
    return found
