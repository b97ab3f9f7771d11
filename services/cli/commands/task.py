"""`jetcrew task`."""

from pathlib import Path
from typing import Any

import click

from services.cli.commands.run import read_prompt
from services.cli.options import (
    Assignment,
    Duration,
    NameOf,
    applying,
    as_json,
    budgeting,
    carrying,
    connecting,
    conversing,
    shaping,
)

STATES = ["queued", "running", "succeeded", "failed", "cancelled", "timed-out", "input-required"]


@click.group()
def task() -> None:
    """Submit, list, show, await, cancel tasks; read their events, transcripts and evidence.

    \b
        jetcrew task submit ada "Add a --version flag"
        jetcrew task wait t1
        jetcrew task events t1
    """


@task.command()
@click.argument("worker")
@click.argument("prompt")
@click.option(
    "--timeout",
    type=Duration(),
    default="30m",
    show_default=True,
    metavar="TIME",
    help="Time it may take: 90, 30m, 2h.",
)
@conversing
@carrying
@budgeting
@shaping
@click.option("--max-attempts", type=click.IntRange(1, 10), default=1, show_default=True)
@click.option(
    "--context-value",
    "values",
    type=Assignment(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Passed through to the record.  [repeatable]",
)
@click.option("--id", "task_id", metavar="ID", help="Its id; the same one again is the same task.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 when it did not succeed.")
@as_json
@connecting
@click.pass_context
def submit(ctx: click.Context, /, **options: Any) -> int:
    """Give WORKER a PROMPT (- reads it from stdin); prints the task's id.

    \b
        jetcrew task submit ada "make test"
        jetcrew task submit ada - --wait < prompt.md
    """
    from services.cli.session import converse
    from services.cli.tasks import submit_task

    options["prompt"] = read_prompt(options["prompt"])
    return converse(ctx, options, lambda session: submit_task(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@as_json
@connecting
@click.pass_context
def get(ctx: click.Context, /, **options: Any) -> None:
    """What is known of the task ID.

    \b
        jetcrew task get t1
        jetcrew task get t1 --json | jq .end.verdict
    """
    from services.cli.session import converse
    from services.cli.tasks import get_task

    converse(ctx, options, lambda session: get_task(session, options))


@task.command("list")
@click.option("--worker", type=NameOf("a worker"), metavar="NAME", help="Of this worker only.")
@click.option("--state", type=click.Choice(STATES), help="In this state only.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many."
)
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The tasks there are, newest last.

    \b
        jetcrew task list --worker ada
        jetcrew task list --state failed --json
    """
    from services.cli.session import converse
    from services.cli.tasks import list_tasks

    converse(ctx, options, lambda session: list_tasks(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@click.option(
    "--timeout",
    type=Duration(),
    metavar="TIME",
    help="Give up after this time (exit 3).  [default: never]",
)
@as_json
@connecting
@click.pass_context
def wait(ctx: click.Context, /, **options: Any) -> int:
    """Wait for the end of the task ID; exit 0 when it succeeded, 1 when it did not.

    \b
        jetcrew task wait t1 && echo done
    """
    from services.cli.session import converse
    from services.cli.tasks import wait_task

    return converse(ctx, options, lambda session: wait_task(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@click.argument("text")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 when it did not succeed.")
@as_json
@connecting
@click.pass_context
def answer(ctx: click.Context, /, **options: Any) -> int:
    """Answer the task ID, which waits for input, with TEXT (- reads it from stdin).

    The task goes on in the same conversation.

    \b
        jetcrew task answer t1 "The second one."
        jetcrew task answer t1 - --wait < answer.md
    """
    from services.cli.session import converse
    from services.cli.tasks import answer_task

    options["text"] = read_prompt(options["text"])
    return converse(ctx, options, lambda session: answer_task(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@as_json
@connecting
@click.pass_context
def diff(ctx: click.Context, /, **options: Any) -> None:
    """What the task ID changed in its worker's repository, as a patch; on a terminal coloured and paged.

    \b
        jetcrew task diff t1
        jetcrew task diff t1 | git apply --check
    """
    from services.cli.session import converse
    from services.cli.work import show_diff

    converse(ctx, options, lambda session: show_diff(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@click.option(
    "--repo", default=".", show_default=True, metavar="PATH", help="The repository it lands in."
)
@applying
@as_json
@connecting
@click.pass_context
def fetch(ctx: click.Context, /, **options: Any) -> int:
    """Bring the work of the task ID into the branch jetcrew/ID of a repository.

    Nothing that is checked out is touched, unless --apply says so.

    \b
        jetcrew task fetch t1
        jetcrew task fetch t1 --repo ~/src/tool --apply
    """
    from services.cli.session import converse
    from services.cli.work import fetch_work

    return converse(ctx, options, lambda session: fetch_work(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Told in its end.")
@as_json
@connecting
@click.pass_context
def cancel(ctx: click.Context, /, **options: Any) -> None:
    """End the task ID: at once if it is queued, with the agent's processes if it runs.

    \b
        jetcrew task cancel t1 --reason "not needed any more"
    """
    from services.cli.session import converse
    from services.cli.tasks import cancel_task

    converse(ctx, options, lambda session: cancel_task(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until its end.")
@as_json
@connecting
@click.pass_context
def events(ctx: click.Context, /, **options: Any) -> None:
    """The events of the task ID, oldest first.

    \b
        jetcrew task events t1
        jetcrew task events t1 --follow --json
    """
    from services.cli.session import converse
    from services.cli.tasks import task_events

    converse(ctx, options, lambda session: task_events(session, options))


of_attempt = click.option(
    "--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt.  [default: the last]"
)


@task.command()
@click.argument("task_id", metavar="ID")
@of_attempt
@as_json
@connecting
@click.pass_context
def evidence(ctx: click.Context, /, **options: Any) -> None:
    """What is known of how the task ID ended: kept after its worker is deleted.

    \b
        jetcrew task evidence t1
        jetcrew task evidence t1 --json | jq .end.usage
    """
    from services.cli.ends import task_evidence
    from services.cli.session import converse

    converse(ctx, options, lambda session: task_evidence(session, options))


@task.command()
@click.argument("task_id", metavar="ID")
@of_attempt
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it there, whole or not at all.",
)
@connecting
@click.pass_context
def transcript(ctx: click.Context, /, **options: Any) -> None:
    """All that the agent of the task ID wrote, as it wrote it, secrets replaced.

    \b
        jetcrew task transcript t1
        jetcrew task transcript t1 --output t1.jsonl
    """
    from services.cli.ends import task_transcript
    from services.cli.session import converse

    converse(ctx, options, lambda session: task_transcript(session, options))
