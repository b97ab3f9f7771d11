"""Budgets: what a project, a worker or one task may use of a model; kept outside the agent."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.events import Usage

EXHAUSTED = "budget-exhausted"
"""The reason of a task's end when a budget is used up, be it before its start or while it ran."""

CREDIBLE = 1_000_000_000_000
"""The most of anything that one attempt can have used."""


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bounds; None is without bound. An agent that does not say what it uses is not bound by them."""

    usd: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """US dollars, as the agent reckons them; for a gateway of one's own that is the list price."""
    tokens: Annotated[int, Meta(gt=0)] | None = None
    """Input, output and what is written to a cache; what is read from one is not counted."""
    turns: Annotated[int, Meta(gt=0)] | None = None
    """Answers of the model, as the agent counts them."""


class Spent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known to be used."""

    usd: float = 0.0
    tokens: int = 0
    turns: int = 0


class Untold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Attempts that did not say what they used of each: it is not known, and not nothing."""

    usd: int = 0
    tokens: int = 0
    turns: int = 0


def spent_in(usage: Usage | None) -> Spent:
    """What a task used, as far as its agent says."""
    usd, tokens, turns = _told(usage)
    return Spent(usd=usd or 0.0, tokens=int(tokens or 0), turns=int(turns or 0))


def both(one: Spent, other: Spent) -> Spent:
    """Together."""
    return Spent(
        usd=round(one.usd + other.usd, 6),
        tokens=one.tokens + other.tokens,
        turns=one.turns + other.turns,
    )


def more_untold(before: Untold, usage: Usage | None) -> Untold:
    """With one more attempt, as far as it does not say."""
    usd, tokens, turns = (int(told is None) for told in _told(usage))
    return Untold(usd=before.usd + usd, tokens=before.tokens + tokens, turns=before.turns + turns)


def _told(usage: Usage | None) -> tuple[float | None, float | None, float | None]:
    """USD, tokens and turns that are told. An agent may say anything: what nobody can have used is not told."""

    def told(*parts: float | None) -> float | None:
        credible = [part for part in parts if part is not None and 0 <= part <= CREDIBLE]
        return sum(credible) if credible else None

    usage = usage or Usage()
    tokens = told(usage.input_tokens, usage.output_tokens, usage.cache_write_tokens)
    return told(usage.cost_usd), tokens, told(usage.turns)


def overrun(budget: Budget, spent: Spent) -> str | None:
    """Which bound is reached, as a sentence; None while there is something left of each."""
    for name, unit in (("usd", "USD"), ("tokens", "tokens"), ("turns", "turns")):
        bound, used = getattr(budget, name), getattr(spent, name)
        if bound is not None and used >= bound:
            return f"{used:g} of {bound:g} {unit} are used"
    return None


def left_for(task: Budget, shared: Budget, spent: Spent) -> Budget:
    """What a task may use: its own budget, and no more than what is left of the one that it shares, its
    worker's or its project's, which must not be used up."""

    def least(name: str) -> float | None:
        own, whole = getattr(task, name), getattr(shared, name)
        rest = None if whole is None else whole - getattr(spent, name)
        return min((bound for bound in (own, rest) if bound is not None), default=None)

    tokens, turns = least("tokens"), least("turns")
    return Budget(
        usd=least("usd"),
        tokens=None if tokens is None else int(tokens),
        turns=None if turns is None else int(turns),
    )
