"""`jetcrew worker`."""

from typing import Any

import click

from services.cli.commands.run import read_making
from services.cli.options import (
    Assignment,
    Duration,
    as_json,
    bounding,
    budgeting,
    carrying,
    connecting,
    making,
    trusting,
)


@click.group()
def worker() -> None:
    """Create, list, show, pause, resume, delete workers; read their output.

    \b
        jetcrew worker create ada --agent claude --secret ANTHROPIC_API_KEY --capability git
        jetcrew worker list
        jetcrew worker logs ada --follow
        jetcrew worker delete ada
    """


@worker.command()
@click.argument("name")
@making
@bounding
@trusting
@carrying
@budgeting
@click.option(
    "--allow",
    "allowed_commands",
    multiple=True,
    metavar="VERB",
    help="What it may ask the crew for.  [repeatable]",
)
@click.option(
    "--lifetime",
    type=click.Choice(["task", "persistent"]),
    help="task: it is deleted once its first task is over.  [default: persistent]",
)
@click.option(
    "--label", "labels", type=Assignment(), multiple=True, metavar="KEY=VALUE", help="[repeatable]"
)
@click.option("--no-wait", is_flag=True, help="Return when the crew has taken the order.")
@as_json
@connecting
@click.pass_context
def create(ctx: click.Context, /, **options: Any) -> None:
    """Make the worker NAME and wait until it is ready.

    \b
        jetcrew worker create ada --agent shell
        jetcrew worker create bob --agent claude --instructions CLAUDE.md --network none
        jetcrew worker create dan --agent claude --repo . --secret ANTHROPIC_API_KEY
        jetcrew worker create cid --memory 4096 --idle-pause 10m --idle-expiry 2d
    """
    from services.cli.session import converse
    from services.cli.workers import create_worker

    options = read_making(options)
    converse(ctx, options, lambda session: create_worker(session, options))


@worker.command("list")
@click.option("--all", "every", is_flag=True, help="Those that have ended, too.")
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The workers there are.

    \b
        jetcrew worker list
        jetcrew worker list --all --json | jq '.[].name'
    """
    from services.cli.session import converse
    from services.cli.workers import list_workers

    converse(ctx, options, lambda session: list_workers(session, options))


@worker.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def get(ctx: click.Context, /, **options: Any) -> None:
    """What is known of the worker NAME.

    \b
        jetcrew worker get ada
        jetcrew worker get ada --json | jq .state
    """
    from services.cli.session import converse
    from services.cli.workers import get_worker

    converse(ctx, options, lambda session: get_worker(session, options))


@worker.command()
@click.argument("name")
@click.option(
    "--keep-workspace", is_flag=True, help="Leave its files for a later worker of this name."
)
@click.option("--no-wait", is_flag=True, help="Return when the crew has taken the order.")
@as_json
@connecting
@click.pass_context
def delete(ctx: click.Context, /, **options: Any) -> None:
    """End the worker NAME. Its open task ends as cancelled, its queued ones are refused.

    \b
        jetcrew worker delete ada
        jetcrew worker delete ada --keep-workspace
    """
    from services.cli.session import converse
    from services.cli.workers import delete_worker

    converse(ctx, options, lambda session: delete_worker(session, options))


@worker.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def pause(ctx: click.Context, /, **options: Any) -> None:
    """Freeze the worker NAME, which has no task, until one comes or it is resumed.

    \b
        jetcrew worker pause ada
    """
    from services.cli.session import converse
    from services.cli.workers import pause_worker

    converse(ctx, options, lambda session: pause_worker(session, options))


@worker.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def resume(ctx: click.Context, /, **options: Any) -> None:
    """Thaw the worker NAME. A task that is submitted does so by itself.

    \b
        jetcrew worker resume ada
    """
    from services.cli.session import converse
    from services.cli.workers import resume_worker

    converse(ctx, options, lambda session: resume_worker(session, options))


@worker.command()
@click.argument("name")
@click.option("--task", metavar="ID", help="Of this task only.")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--wrapper", is_flag=True, help="The wrapper's own log, of a process worker on this host."
)
@as_json
@connecting
@click.pass_context
def logs(ctx: click.Context, /, **options: Any) -> None:
    """The output of the agent of worker NAME, oldest first, as far as it is kept (three days).

    \b
        jetcrew worker logs ada
        jetcrew worker logs ada --task t7 > t7.log
        jetcrew worker logs ada --follow --json
    """
    from services.cli.session import converse
    from services.cli.workers import show_logs, show_wrapper_log

    if options.pop("wrapper"):
        show_wrapper_log(options["name"])
        return
    converse(ctx, options, lambda session: show_logs(session, options))


@worker.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def evidence(ctx: click.Context, /, **options: Any) -> None:
    """What is known of how the last unit of worker NAME ended: kept after it is deleted.

    \b
        jetcrew worker evidence ada
        jetcrew worker evidence ada --json | jq .unit_end
    """
    from services.cli.ends import worker_evidence
    from services.cli.session import converse

    converse(ctx, options, lambda session: worker_evidence(session, options))


@worker.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGS]…")
@click.option(
    "--timeout", type=Duration(), default=20.0, metavar="TIME", help="At most 50s.  [default: 20s]"
)
@as_json
@connecting
@click.pass_context
def exec_(ctx: click.Context, /, **options: Any) -> None:
    """Run PROGRAM in the worker NAME, beside its agent, to see what is wrong with it.

    It runs in the workspace, as the worker's user, without the agent's secrets; the worker's history tells
    that it was run. Exit code: the program's.

    \b
        jetcrew worker exec ada git status
        jetcrew worker exec ada -- sh -c 'ps aux; df -h'
    """
    from services.cli.session import converse
    from services.cli.workers import exec_in_worker

    ctx.exit(converse(ctx, options, lambda session: exec_in_worker(session, options)))
