"""Budgets: what a worker, or one task, may use of a model; kept outside the agent."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.events import Usage


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


def spent_in(usage: Usage | None) -> Spent:
    """What a task used, as far as its agent says."""
    if usage is None:
        return Spent()
    parts = (usage.input_tokens, usage.output_tokens, usage.cache_write_tokens)
    return Spent(
        usd=usage.cost_usd or 0.0, tokens=sum(part or 0 for part in parts), turns=usage.turns or 0
    )


def both(one: Spent, other: Spent) -> Spent:
    """Together."""
    return Spent(
        usd=round(one.usd + other.usd, 6),
        tokens=one.tokens + other.tokens,
        turns=one.turns + other.turns,
    )


def overrun(budget: Budget, spent: Spent) -> str | None:
    """Which bound is reached, as a sentence; None while there is something left of each."""
    for name, unit in (("usd", "USD"), ("tokens", "tokens"), ("turns", "turns")):
        bound, used = getattr(budget, name), getattr(spent, name)
        if bound is not None and used >= bound:
            return f"{used:g} of {bound:g} {unit} are used"
    return None


def left_for(task: Budget, worker: Budget, spent: Spent) -> Budget:
    """What a task may use: its own budget, and no more than what is left of its worker's, which must not
    be used up."""

    def least(name: str) -> float | None:
        own, whole = getattr(task, name), getattr(worker, name)
        rest = None if whole is None else whole - getattr(spent, name)
        return min((bound for bound in (own, rest) if bound is not None), default=None)

    tokens, turns = least("tokens"), least("turns")
    return Budget(
        usd=least("usd"),
        tokens=None if tokens is None else int(tokens),
        turns=None if turns is None else int(turns),
    )
