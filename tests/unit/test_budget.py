"""Budgets: what is left, what is reached, and what an agent does not tell (R26)."""

import pytest

from contracts.budget import Budget, Spent, Untold, both, left_for, more_untold, overrun, spent_in
from contracts.events import Usage


def test_reading_a_cache_is_not_counted_and_what_is_unknown_is_nothing() -> None:
    usage = Usage(input_tokens=1, output_tokens=2, cache_write_tokens=4, cache_read_tokens=800)

    assert spent_in(usage) == Spent(tokens=7)
    assert spent_in(None) == Spent()


@pytest.mark.parametrize("wrong", [-1, 10**18])
def test_what_nobody_can_have_used_is_not_told(wrong: int) -> None:
    """Else one worker could give the others of its project more to spend, or fill a record with figures."""
    usage = Usage(cost_usd=wrong, input_tokens=wrong, output_tokens=2, turns=wrong)

    assert spent_in(usage) == Spent(tokens=2)
    assert more_untold(Untold(), usage) == Untold(usd=1, turns=1)


@pytest.mark.parametrize(
    ("budget", "spent", "said"),
    [
        (Budget(), Spent(usd=9e9, tokens=10**12, turns=10**6), None),
        (Budget(usd=1.0), Spent(usd=0.999), None),
        (Budget(usd=1.0), Spent(usd=1.0), "1 of 1 USD are used"),
        (Budget(tokens=10), Spent(tokens=12), "12 of 10 tokens are used"),
        (Budget(usd=5, turns=3), Spent(turns=3), "3 of 3 turns are used"),
    ],
)
def test_a_bound_is_reached_when_nothing_is_left_of_it(
    budget: Budget, spent: Spent, said: str | None
) -> None:
    assert overrun(budget, spent) == said


def test_a_task_gets_the_smaller_of_its_own_and_of_what_is_left_of_its_worker_s() -> None:
    worker, spent = Budget(usd=1.0, tokens=100), Spent(usd=0.25, tokens=40)

    assert left_for(Budget(), worker, spent) == Budget(usd=0.75, tokens=60)
    assert left_for(Budget(usd=0.5, turns=2), worker, spent) == Budget(usd=0.5, tokens=60, turns=2)


def test_cents_add_up() -> None:
    total = Spent()
    for _ in range(10):
        total = both(total, Spent(usd=0.1))

    assert total.usd == 1.0
