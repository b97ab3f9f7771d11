"""The command that forgets a session."""

from contracts.errors import InvalidMessage, NotThere, Refused
from contracts.results import Result
from contracts.session import ForgetSession
from services.worker_manager.crew import Crew


async def forget_session(crew: Crew, command: ForgetSession) -> Result:
    """Forget it. Of a shared one the files go, too; those of a worker's own are in its home, and go with that.

    Raises:
        InvalidMessage: it does not say whose.
        NotThere, Refused: there is none, or a task is in it.
    """
    if (command.worker is None) == (command.owner is None):
        raise InvalidMessage("either worker or owner says whose session it is", field="$.owner")
    if command.worker is not None:
        return await _own(crew, command, command.worker)
    forgotten = [
        held.value.shared.agent
        for held in (await crew.sharing.list(command.owner)).values()
        if held.value.shared is not None
        and held.value.shared.name == command.name
        and command.agent in {None, held.value.shared.agent}
        and await crew.sharing.forget(held.value.shared)
    ]
    if not forgotten:
        raise NotThere(
            f"owner {command.owner!r} has no session {command.name!r}"
            + (f" of agent {command.agent!r}" if command.agent else ""),
            field="$.name",
        )
    return Result(detail=f"forgotten: {command.name} of {', '.join(sorted(forgotten))}")


async def _own(crew: Crew, command: ForgetSession, name: str) -> Result:
    worker = await crew.workers.get(name)
    if worker is not None and worker.value.task is not None:
        task = await crew.tasks.get(worker.value.task)
        if task is not None and task.value.shared is None and not task.value.ended:
            inside = "continue" if task.value.session == "new" else task.value.session
            if inside == command.name:
                raise Refused(
                    f"session {command.name!r} is in use by task {task.value.id}", field="$.name"
                )
    key = f"{name}.{command.name}"
    if await crew.sessions.get(key) is None:
        raise NotThere(f"worker {name!r} has no session {command.name!r}", field="$.name")
    await crew.sessions.delete(key)
    return Result(
        worker=worker.value.name if worker else None, detail=f"forgotten: {command.name} of {name}"
    )
