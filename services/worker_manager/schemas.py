"""JSON Schemas that tasks bring for their verdict's data."""

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import validator_for
from msgspec import to_builtins
from msgspec.structs import replace

from contracts.codec import encode
from contracts.errors import InvalidMessage
from contracts.events import TaskEnd
from contracts.reports import EndState

LARGEST = 16_384
"""Bytes of a schema: it travels on an agent's command line, and stands in the task's record."""
FIELD = "$.data_schema"
SHOWN = 200
"""Characters of what does not match that are repeated."""


def check(schema: dict[str, object] | None) -> None:
    """See that a schema is one.

    Raises:
        InvalidMessage: it is too large, refers to something outside of itself, or is no JSON Schema.
    """
    if schema is None:
        return
    text = encode(schema)
    if len(text) > LARGEST:
        raise InvalidMessage(f"{len(text):,} bytes; at most {LARGEST:,} are taken", field=FIELD)
    if _remote(schema):
        raise InvalidMessage('a "$ref" has to begin with "#"', field=FIELD)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path)
        raise InvalidMessage(
            f"no JSON Schema: {error.message[:SHOWN]}", field=FIELD + where
        ) from None


def held_against(
    schema: dict[str, object] | None, state: EndState, end: TaskEnd
) -> tuple[EndState, TaskEnd]:
    """The end as it is, or the failure that it is when a success's data does not match."""
    if schema is None or state != "succeeded" or end.verdict is None:
        return state, end
    validator = validator_for(schema, default=Draft202012Validator)(schema)
    error = best_match(validator.iter_errors(to_builtins(end.verdict.data)))
    if error is None:
        return state, end
    detail = (
        f"its data does not match the task's schema: {error.json_path}: {error.message[:SHOWN]}"
    )
    return "failed", replace(end, reason="bad-result", detail=detail)


def _remote(value: object) -> bool:
    if isinstance(value, dict):
        ref = value.get("$ref", "#")
        outside = isinstance(ref, str) and not ref.startswith("#")
        return outside or any(_remote(item) for item in value.values())
    return isinstance(value, list) and any(_remote(item) for item in value)
