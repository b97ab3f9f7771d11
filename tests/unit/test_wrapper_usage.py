"""Tokens counted from a conversation's beginning, and what one turn adds to them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.events import Usage
from wrapper.usage import Totals


def total(given: int, taken: int) -> Usage:
    return Usage(input_tokens=given, output_tokens=taken, turns=2, model="m")


def test_the_first_turn_of_a_conversation_used_all_of_it(tmp_path: Path) -> None:
    assert Totals(tmp_path).turn("s", total(100, 5), resumed=False) == total(100, 5)


def test_a_later_turn_used_what_came_on_top(tmp_path: Path) -> None:
    Totals(tmp_path).turn("s", total(100, 5), resumed=False)
    Totals(tmp_path).turn("other", total(7, 7), resumed=False)

    assert Totals(tmp_path).turn("s", total(250, 9), resumed=True) == total(150, 4)
    assert Totals(tmp_path).turn("s", total(300, 10), resumed=True) == total(50, 1)


def test_without_a_known_beginning_what_a_turn_used_is_unknown(tmp_path: Path) -> None:
    totals = Totals(tmp_path)

    assert totals.turn("s", total(100, 5), resumed=True) is None
    assert totals.turn("s", total(120, 6), resumed=True) == total(20, 1)


@pytest.mark.parametrize("spoil", [lambda file: file.write_text("no JSON"), os.mkfifo, Path.mkdir])
def test_what_an_agent_leaves_in_the_place_of_a_total_does_no_harm(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    totals = Totals(tmp_path)
    totals.turn("s", total(100, 5), resumed=False)
    [file] = (tmp_path / ".jetcrew" / "usage").iterdir()
    file.unlink()
    spoil(file)

    assert totals.turn("s", total(200, 9), resumed=True) is None
