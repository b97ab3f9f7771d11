"""What the agent says of its task: the last complete `<result>{…}</result>` of its final text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from contracts.codec import encode
from contracts.events import Verdict, VerdictStatus

Kind = Literal["missing", "truncated", "broken", "not-an-object", "unknown-status", "too-large"]

LARGEST = 262_144
"""Bytes of a verdict as JSON; a report has to fit into one message."""
DEEPEST = 50
"""Levels of nesting in a verdict's data."""
_LOOK_BACK = 500  # opening tags looked at, from the last one back

_OPEN = re.compile(r"<result>\s*(?:```[a-zA-Z]*\s*)?")
_CLOSE = re.compile(r"\s*(?:```\s*)?</result>")
_JSON = json.JSONDecoder(strict=False)
_STATUSES: tuple[VerdictStatus, ...] = get_args(VerdictStatus)


@dataclass(frozen=True)
class VerdictProblem:
    """There is no verdict, and this is why."""

    kind: Kind
    detail: str
    """A sentence that agent and person can act on."""


@dataclass(frozen=True)
class _Block:
    start: int
    end: int
    value: Any


def structured_verdict(value: object) -> Verdict | VerdictProblem:
    """The verdict in an answer that is an object as a whole."""
    return _verdict(value)


def read_verdict(text: str) -> Verdict | VerdictProblem:
    """The verdict in an agent's decoded final text.

    A block counts as complete when its JSON decodes and the closing tag follows; one inside another's
    JSON string does not count. Of the complete ones the last is taken, whatever it says.
    """
    openings = list(_OPEN.finditer(text))[-_LOOK_BACK:]
    blocks: list[_Block] = []
    problem: VerdictProblem | None = None
    for opening in reversed(openings):
        found = _block(text, opening)
        if isinstance(found, _Block):
            blocks = [block for block in blocks if block.start > found.end]
            blocks.append(found)
        elif problem is None:
            problem = found
    if blocks:
        return _verdict(max(blocks, key=lambda block: block.start).value)
    return problem or VerdictProblem("missing", "There is no <result> block.")


def _block(text: str, opening: re.Match[str]) -> _Block | VerdictProblem:
    try:
        value, end = _JSON.raw_decode(text, opening.end())
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or "Unterminated string" in error.msg:
            return VerdictProblem("truncated", "The <result> block breaks off before its end.")
        near = text[max(opening.end(), error.pos - 20) : error.pos + 20]
        reason = f"The JSON in <result> is wrong: {error.msg} near {near!r}."
        return VerdictProblem("broken", reason)
    except (ValueError, RecursionError) as error:
        return VerdictProblem("broken", f"The JSON in <result> is wrong: {error}.")
    closing = _CLOSE.match(text, end)
    if closing is None:
        if not text[end:].strip(" \t\r\n`"):
            return VerdictProblem("truncated", "The closing </result> is missing.")
        found = text[end : end + 20].strip()
        return VerdictProblem("broken", f"After the JSON comes {found!r} instead of </result>.")
    return _Block(opening.start(), closing.end(), value)


def _verdict(value: Any) -> Verdict | VerdictProblem:
    if not isinstance(value, dict):
        return VerdictProblem("not-an-object", "The JSON in <result> has to be an object.")
    given = value.get("status")
    status = next((known for known in _STATUSES if known == given), None)
    if status is None:
        known = ", ".join(_STATUSES)
        said = "missing" if given is None else f"{str(given)[:40]!r}"
        return VerdictProblem("unknown-status", f'"status" is {said}; it has to be one of {known}.')
    summary, data = value.get("summary", ""), value.get("data")
    try:
        verdict = Verdict(
            status=status,
            summary=clean(summary if isinstance(summary, str) else json.dumps(summary)),
            data=_cleaned(
                {} if data is None else data if isinstance(data, dict) else {"value": data}
            ),
        )
        size = len(encode(verdict))
    except (ValueError, OverflowError, RecursionError) as error:
        return VerdictProblem("broken", f"The data in <result> cannot be passed on: {error}.")
    if size > LARGEST:
        reason = f"The <result> block holds {size:,} bytes; at most {LARGEST:,} are taken."
        return VerdictProblem("too-large", reason)
    return verdict


def _cleaned(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _cleaned(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value]
    return value


def clean(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON may spell and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


EXPLANATION = """
---
When you have finished, end your last message with exactly one block of this form:
<result>{"status": STATUS, "summary": SUMMARY, "data": {}}</result>
STATUS is "success" when the task is done, "failure" when it cannot be done, "in_progress" when you need \
an answer before you can go on. SUMMARY is one sentence in quotes. The block is JSON; put results worth \
keeping into "data". If you committed, give the commit's full hash as "commit" there and its branch as "branch", and \
after a push the branch as "pushed".
"""
"""Appended to a prompt. It holds no block that would parse: some agents repeat their prompt in the output."""


STRUCTURED = """
---
Your answer is an object with "status", "summary" and "data". "status" is "success" when the task is done, "failure" when it \
cannot be done, "in_progress" when you need an answer before you can go on. "summary" is one sentence.
"""
"""Appended instead for an agent that is held to a schema by its own means."""


def whole_schema(data: Mapping[str, object]) -> dict[str, object]:
    """The JSON Schema of a verdict whose data has this one."""
    own = dict(data)
    shared: dict[str, object] = {
        name: own.pop(name) for name in ("$defs", "definitions") if name in own
    }
    own.pop("$schema", None)
    verdict: dict[str, object] = {
        "status": {"type": "string", "enum": list(_STATUSES)},
        "summary": {"type": "string"},
    }
    return {
        "type": "object",
        "properties": {**verdict, "data": own},
        "required": ["status", "summary", "data"],
        "additionalProperties": False,
        **shared,
    }


def whole_answer(text: str) -> dict[str, Any] | None:
    """The object that a text is as a whole."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def repair_prompt(problem: VerdictProblem, explanation: str = EXPLANATION) -> str:
    """What the agent is asked, once, after an answer without a usable block."""
    return (
        f"Your last message cannot be evaluated. {problem.detail} Do no further work: reply with the "
        f"corrected block only.\n{explanation}"
    )
