"""Allow-lists of fields: what a rule names is checked and kept, anything else that is set is refused."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from services.worker_manager.engine_door.refusal import Refusal

Rule = Callable[[Any, str], Any]
"""From a value and the path of its field to the value that is sent. Raises Refusal."""

TEXT_LENGTH = 131_072
"""Of one text: what a kernel takes as one argument of a process."""
_MEANS_SOMETHING_EMPTY = frozenset({"MaskedPaths", "ReadonlyPaths"})
"""Fields whose empty list is a setting: nothing is masked."""


def unset(value: Any) -> bool:
    """What clients send of a field that they have nothing to say of."""
    if isinstance(value, dict):
        return all(_blank(inner) for inner in value.values())
    return _blank(value) or value == []


def _blank(value: Any) -> bool:
    return value is None or value is False or value == "" or (_is_number(value) and value == 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def picked(
    body: Any, rules: Mapping[str, Rule], where: str, reasons: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The fields of `body` that `rules` know, each as its rule returns it. Names are compared exactly, while
    the engine ignores their case: another spelling is an unknown field.

    Raises:
        Refusal: another field is set; `reasons` says why for those that people will try.
    """
    if not isinstance(body, dict):
        raise Refusal(f"{where or 'the body'}: an object is expected", 400)
    sent = {}
    for name, value in body.items():
        path = f"{where}.{name}" if where else name
        if name in rules:
            if not (value is None or value is False or value in ("", 0)):
                sent[name] = rules[name](value, path)
        elif not (value is None or (unset(value) and name not in _MEANS_SOMETHING_EMPTY)):
            reason = (reasons or {}).get(name, "is not among what a worker may set")
            raise Refusal(f"{path[:200]} {reason}")
    return sent


def text(value: Any, where: str) -> str:
    """Any text."""
    if not isinstance(value, str) or len(value) > TEXT_LENGTH or "\0" in value:
        raise Refusal(f"{where}: a text is expected", 400)
    return value


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Refusal(f"{where}: true or false is expected", 400)
    return value


def number(least: int, most: int) -> Rule:
    """A whole number between two others."""

    def rule(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Refusal(f"{where}: a whole number from {least} to {most} is expected", 400)
        return value

    return rule


def matching(pattern: str, what: str) -> Rule:
    """A text of one form; `what` says which."""
    form = re.compile(pattern)

    def rule(value: Any, where: str) -> str:
        if not isinstance(value, str) or form.fullmatch(value) is None:
            raise Refusal(f"{where}: {what} is expected, not {str(value)[:100]!r}")
        return value

    return rule


def one_of(*allowed: Any) -> Rule:
    """One of a few values."""

    def rule(value: Any, where: str) -> Any:
        if not any(value == one and type(value) is type(one) for one in allowed):
            known = ", ".join(repr(one) for one in allowed)
            raise Refusal(f"{where}: {str(value)[:100]!r} is not for workers; allowed: {known}")
        return value

    return rule


def every(rule: Rule) -> Rule:
    """A list, each item by the same rule."""

    def apply(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise Refusal(f"{where}: a list is expected", 400)
        return [rule(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return apply


def table(key: Rule, rule: Rule) -> Rule:
    """An object whose names are free, within one rule."""

    def apply(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Refusal(f"{where}: an object is expected", 400)
        return {key(k, where): rule(item, f"{where}.{k}") for k, item in value.items()}

    return apply


def fields(rules: Mapping[str, Rule]) -> Rule:
    """An object with fields of its own."""
    return lambda value, where: picked({} if value is None else value, rules, where)


def words(value: Any, where: str) -> Any:
    """A command: a text, or a list of texts."""
    return text(value, where) if isinstance(value, str) else every(text)(value, where)


def nothing(value: Any, where: str) -> None:
    """Known, and not passed on."""


def labels(value: Any, where: str) -> dict[str, str]:
    """Any but ours, by which things are known."""
    found: dict[str, str] = table(text, text)(value, where)
    for name in found:
        if name.startswith("jetcrew."):
            raise Refusal(f"{where}: labels that begin with jetcrew. are not for workers")
    return found
