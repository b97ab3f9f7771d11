"""Projects: what is spent under one name, counted once an attempt, and the commands that set its bounds.

A task's record owes the event of its end until that is published and counted. So whoever strikes the event
off has counted it, and whoever finds it owed counts it, unless the project says that it has been.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from contracts.budget import EXHAUSTED, Budget, both, more_untold, overrun, spent_in
from contracts.bus import Bus, Following, Held, Records
from contracts.errors import AlreadyThere, Conflict, InvalidMessage, NotThere, Refused
from contracts.events import (
    Owed,
    ProjectArchived,
    ProjectCreated,
    ProjectEvent,
    ProjectUpdated,
    ProjectUsedUp,
    TaskEnd,
    TaskEnding,
    TaskQueued,
    Usage,
)
from contracts.ids import CommandId, ProjectId, TaskId
from contracts.project import ArchiveProject, CreateProject, ProjectRecord, UpdateProject
from contracts.results import Result
from contracts.task import TaskRecord
from contracts.topology import PROJECT, TASK

CLOSED = "project-archived"
"""The reason of a task's end when its worker's project takes no more."""
TRIES = 50
"""Lost races after which something other than a race is the matter."""
MANY = 64
"""Counted ends, kept because their tasks may still owe them, at which those are asked."""

ProjectCommand = CreateProject | UpdateProject | ArchiveProject


# -- moves: pure, from a record to the next one ------------------------------------------------------


def created(spec: CreateProject, at: datetime, made_by: CommandId) -> ProjectRecord:
    """A project that was just asked for."""
    record = ProjectRecord(
        name=ProjectId(spec.name), state="active", budget=spec.budget, created_at=at, changed_at=at,
        made_by=made_by,
    )  # fmt: skip
    return _owing(record, ProjectCreated(at=at, project=record.name, **_bounds(record.budget)))


def updated(record: ProjectRecord, change: UpdateProject, at: datetime) -> ProjectRecord | None:
    """The project with other bounds; None when they are these already, or it is archived."""
    bounds = _bounds(record.budget) | dict.fromkeys(change.lift)
    bounds |= {name: bound for name, bound in _bounds(change.budget).items() if bound is not None}
    budget = Budget(**bounds)
    if record.state == "archived" or budget == record.budget:
        return None
    event = ProjectUpdated(at=at, project=record.name, **bounds)
    new = replace(record, budget=budget, changed_at=at)
    return _owing(new, event, *_used_up(record, new, at))


def archived(record: ProjectRecord, at: datetime) -> ProjectRecord | None:
    """The project closed; None when it is."""
    if record.state == "archived":
        return None
    new = replace(record, state="archived", changed_at=at)
    return _owing(new, ProjectArchived(at=at, project=record.name))


def counted(
    record: ProjectRecord, usage: Usage | None, at: datetime, known: dict[str, TaskId]
) -> ProjectRecord:
    """The project with one more attempt in what it spent; `known` are all ends that it remembers now."""
    new = replace(
        record,
        spent=both(record.spent, spent_in(usage)),
        untold=more_untold(record.untold, usage),
        attempts=record.attempts + 1,
        counted=known,
    )
    return _owing(new, *_used_up(record, new, at))


def ends_owed(record: TaskRecord) -> Iterator[tuple[str, Usage | None]]:
    """Ends of attempts that a task's record owes still: the id of the event, and what was used. An attempt
    that never started has used nothing."""
    for owed in record.owed:
        event = owed.event
        if isinstance(event, TaskQueued) and event.after is not None:
            yield owed.id, event.after.usage
        elif isinstance(event, TaskEnding) and record.run is not None:
            yield owed.id, event.end.usage


def refusal(project: ProjectRecord) -> TaskEnd | None:
    """The end of a task that may not start, because of the project of its worker."""
    if project.state == "archived":
        return TaskEnd(reason=CLOSED, detail=f"project {project.name} is archived")
    if (why := overrun(project.budget, project.spent)) is not None:
        detail = f"project {project.name} has used up its budget: {why}"
        return TaskEnd(reason=EXHAUSTED, detail=detail)
    return None


def _bounds(budget: Budget) -> dict[str, Any]:
    return {name: getattr(budget, name) for name in Budget.__struct_fields__}


def _used_up(before: ProjectRecord, after: ProjectRecord, at: datetime) -> list[ProjectEvent]:
    """The event that tells so, if it has become so."""
    why = overrun(after.budget, after.spent)
    if why is None or overrun(before.budget, before.spent) is not None:
        return []
    return [ProjectUsedUp(at=at, project=after.name, reason=why)]


def _owing(record: ProjectRecord, *events: ProjectEvent) -> ProjectRecord:
    def owed(event: ProjectEvent) -> Owed:
        kind = str(event.__struct_config__.tag).partition(".")[2]
        return Owed(id=f"p:{record.name}:{record.evt_seq}:{kind}", event=event)

    return replace(record, owed=[owed(event) for event in events])


# -- records -----------------------------------------------------------------------------------------


class Projects:
    """The records of projects. Others read them; only this changes them."""

    def __init__(self, bus: Bus, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._tasks = bus.bucket(TASK, TaskRecord)
        self.records: Records[ProjectRecord] = Records(
            bus,
            bus.bucket(PROJECT, ProjectRecord),
            lambda record: bus.subjects.events_of_project(record.name),
        )
        self._owing: Following[ProjectRecord, Held[ProjectRecord]] = Following(
            self.records.bucket, lambda held: held if held.value.owed else None
        )
        self._one_at_a_time = asyncio.Lock()

    async def get(self, name: str) -> ProjectRecord | None:
        """The record, or None."""
        held = await self.records.get(name)
        return held.value if held else None

    async def check(self, name: str) -> None:
        """Whether a worker can be made in it.

        Raises:
            NotThere, Refused: it does not exist, or is archived.
        """
        project = await self.get(name)
        if project is None:
            raise NotThere(f"there is no project {name!r}", field="$.project")
        if project.state == "archived":
            raise Refused(f"project {name!r} is archived", field="$.project")

    async def carry_out(self, command: ProjectCommand, command_id: CommandId) -> Result:
        """Do what a command asks.

        Raises:
            InvalidMessage, Refused: it cannot be done; nothing was changed.
        """
        match command:
            case CreateProject():
                return await self._create(command, command_id)
            case UpdateProject():
                return await self._update(command)
            case ArchiveProject():
                await self._existing(command.name)
                await self.records.change(command.name, lambda r: archived(r, self._clock()))
        return Result(project=ProjectId(command.name), detail="archived")

    async def _create(self, command: CreateProject, command_id: CommandId) -> Result:
        name = ProjectId(command.name)
        made = await self.records.create(name, created(command, self._clock(), command_id))
        if made is None:
            found = await self._existing(name)
            if found.made_by != command_id:
                raise AlreadyThere(
                    f"there is a project {name!r} ({found.state}); take another name",
                    field="$.name",
                )
        return Result(project=name, detail="created")

    async def _update(self, command: UpdateProject) -> Result:
        if not command.lift and command.budget == Budget():
            raise InvalidMessage("names no bound to change", field="$.budget")
        for index, name in enumerate(command.lift):
            if getattr(command.budget, name) is not None:
                raise InvalidMessage(f'"{name}" is set in budget, too', field=f"$.lift[{index}]")
        found = await self._existing(command.name)
        if found.state == "archived":
            raise Refused(f"project {command.name!r} is archived", field="$.name")
        await self.records.change(command.name, lambda r: updated(r, command, self._clock()))
        return Result(project=found.name, detail="updated")

    async def _existing(self, name: str) -> ProjectRecord:
        project = await self.get(name)
        if project is None:
            raise NotThere(f"there is no project {name!r}", field="$.name")
        return project

    # -- what is spent ---------------------------------------------------------------------------

    async def repair(self) -> None:
        """Publish what a process that died left owed."""
        await self.records.settle_these(dict(await self._owing.now()).items())

    async def settle(self, task: TaskRecord) -> None:
        """Count the ends that a task owes to its project, each once, whoever comes to it and how often."""
        if task.project is None:
            return
        for end, usage in ends_owed(task):
            async with self._one_at_a_time:  # of two at once, one would only lose the race
                await self._settle(task.project, task.id, end, usage)

    async def _settle(
        self, project: ProjectId, task: TaskId, end: str, usage: Usage | None
    ) -> None:
        for _ in range(TRIES):
            held = await self.records.get(project)
            if held is None or end in held.value.counted:
                return
            if await self._count(held, task, end, usage):
                return
        raise Conflict(f"project {project} changed {TRIES} times while it was to be changed once")

    async def _count(
        self, held: Held[ProjectRecord], task: TaskId, end: str, usage: Usage | None
    ) -> bool:
        """Count an end that the project does not remember; False when the project changed meanwhile.

        It may have forgotten it, but only after the task had struck it off. So the task is asked after the
        project was read: what it still owes then was not forgotten before.
        """
        known = held.value.counted
        if not await self._owes(task, end):
            return True
        if len(known) >= MANY:
            known = {id_: of for id_, of in known.items() if await self._owes(of, id_)}
        new = counted(held.value, usage, self._clock(), known | {end: task})
        return await self.records.create(held.value.name, new, over=held.revision) is not None

    async def _owes(self, task: TaskId, end: str) -> bool:
        held = await self._tasks.get(task)
        return held is not None and any(owed.id == end for owed in held.value.owed)
