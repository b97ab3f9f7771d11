"""Pages of a list."""

import heapq
from collections.abc import Iterable
from datetime import datetime

from services.api.views import TaskSummary, WorkerSummary


def page_of_workers(
    found: Iterable[WorkerSummary], after: str | None, limit: int
) -> tuple[list[WorkerSummary], str | None]:
    """The workers that follow `after` by name, and where the next page begins."""
    rest = (w for w in found if after is None or w.name > after)
    items = heapq.nsmallest(limit + 1, rest, key=lambda w: w.name)
    return items[:limit], items[limit - 1].name if len(items) > limit else None


def page_of_tasks(
    found: Iterable[TaskSummary], after: TaskSummary | None, limit: int
) -> tuple[list[TaskSummary], str | None]:
    """The tasks older than `after`, and where the next page begins."""
    rest = (t for t in found if after is None or _age(t) < _age(after))
    items = heapq.nlargest(limit + 1, rest, key=_age)
    return items[:limit], items[limit - 1].id if len(items) > limit else None


def _age(task: TaskSummary) -> tuple[datetime, str]:
    return task.submitted_at, task.id
