"""What every benchmark prints: a table for people, and one JSON document as the last line of stdout."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """One measured thing: a value per round, all rounds interleaved with those of what it is compared to."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Goal:
    """A ratio of two figures and what it should be."""

    name: str
    ours: str
    theirs: str
    limit: float
    at_least: bool = True

    def ratio(self, figures: Mapping[str, Figure]) -> float | None:
        """The median of the rounds' own ratios, since a round hits both alike; None when not measured."""
        ours, theirs = figures[self.ours].rounds, figures[self.theirs].rounds
        if len(ours) != len(theirs):
            ours, theirs = (
                ours and [statistics.median(ours)],
                theirs and [statistics.median(theirs)],
            )
        return (
            statistics.median(o / t for o, t in zip(ours, theirs, strict=False))
            if ours and theirs
            else None
        )

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is on the right side of the limit."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


def report(title: str, figures: Sequence[Figure], goals: Sequence[Goal]) -> bool:
    """Print it all; whether every goal that could be measured holds."""
    console = Console(width=120)
    table = Table(title=f"{title} (median of interleaved rounds, min-max)")
    for column in ("what", "median", "min", "max", "unit", "note"):
        table.add_column(column, justify="left" if column in {"what", "unit", "note"} else "right")
    by_name = {figure.name: figure for figure in figures}
    for figure in figures:
        cells = (
            [
                f"{x:,.2f}" if x < 100 else f"{x:,.0f}"
                for x in (figure.median, min(figure.rounds), max(figure.rounds))
            ]
            if figure.rounds
            else ["-"] * 3
        )
        table.add_row(figure.name, *cells, figure.unit, figure.note)
    console.print(table)
    outcome = Table(title="Ratios")
    for column in ("goal", "ratio", "limit", "holds"):
        outcome.add_column(column)
    documents, fine = [], True
    for goal in goals:
        ratio = goal.ratio(by_name)
        holds = None if ratio is None else goal.holds(ratio)
        fine = fine and holds is not False
        sign = "≥" if goal.at_least else "≤"
        outcome.add_row(
            goal.name,
            "not measured" if ratio is None else f"{ratio:.2f}",
            f"{sign} {goal.limit}",
            str(holds),
        )
        documents.append(
            {
                "goal": goal.name,
                "ratio": ratio,
                "limit": goal.limit,
                "at_least": goal.at_least,
                "holds": holds,
            }
        )
    console.print(outcome)
    figures_out = [
        {"name": f.name, "unit": f.unit, "median": f.median if f.rounds else None, "rounds": f.rounds, "note": f.note}
        for f in figures
    ]  # fmt: skip
    print(
        msgspec.json.encode(
            {"bench": title, "figures": figures_out, "goals": documents, "all_hold": fine}
        ).decode()
    )
    return fine
