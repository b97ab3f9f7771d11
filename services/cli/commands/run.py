"""`jetcrew run`."""

import asyncio
import sys
from pathlib import Path
from typing import IO, Any

import click

from services.cli.app import flags
from services.cli.options import (
    Duration,
    applying,
    as_json,
    bounding,
    budgeting,
    carrying,
    connecting,
    conversing,
    making,
    shaping,
    trusting,
)

FOR_MAKING = (
    "agent",
    "runtime",
    "instructions",
    "env",
    "secrets",
    "capabilities",
    "network",
    "project",
    "memory",
    "cpus",
    "pids",
    "queue_timeout",
    "idle_pause",
    "idle_expiry",
    "trust_repository",
    "name",
    "owner",
)


@click.command(
    epilog="Exit codes: 0 success · 1 the task did not succeed · 2 wrong usage · 3 the infrastructure failed · 130 interrupted (the task is cancelled; a second Ctrl-C ends at once)"
)
@click.argument("prompt")
@making
@bounding
@trusting
@carrying
@applying
@budgeting
@shaping
@conversing
@click.option(
    "--timeout", type=Duration(), default="30m", show_default=True, metavar="TIME",
    help="Time the task may take: 90, 30m, 2h.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the worker that is made.  [default: made up]")
@click.option("--keep", is_flag=True, help="Leave the worker, under its name, for the next prompt.")
@click.option("--worker", metavar="NAME", help="Give the prompt to this worker, which exists.")
@as_json
@connecting
@click.pass_context
def run(ctx: click.Context, /, prompt: str, **options: Any) -> int:
    """Give one PROMPT to an agent and follow it to its verdict.

    PROMPT is text, or - to read it from stdin. Starts what is missing (an embedded NATS server and a
    worker manager) for as long as the prompt takes, or uses the crew that runs. The agent's output goes
    to stdout, everything else to stderr; with --json stdout holds one document and nothing else.

    With --repo the agent works in a copy of a repository. What it committed, and what it left uncommitted,
    comes back as the branch jetcrew/TASK; nothing that is checked out is touched unless --apply says so.

    \b
        jetcrew run --agent shell "uname -a"
        jetcrew run --secret ANTHROPIC_API_KEY "Add a --version flag"
        jetcrew run --repo . --secret ANTHROPIC_API_KEY "Fix the failing test"
        jetcrew run --agent shell --keep --name ada "git clone https://…"
        jetcrew run --worker ada "make test"
        jetcrew run --agent shell --json - < script.sh | jq .end
    """
    from services.cli.running import Request, run_request

    _check(ctx, options)
    request = Request(
        prompt=read_prompt(prompt),
        verbose=flags(ctx)["verbose"],
        debug=flags(ctx)["debug"],
        **read_making(options),
    )
    return asyncio.run(run_request(request))


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    if not options["worker"]:
        return
    for parameter in ctx.command.params:
        if parameter.name in FOR_MAKING and options[parameter.name] not in {None, (), False}:
            raise click.UsageError(
                f"--worker gives the prompt to a worker that exists; {parameter.opts[0]} is for one "
                "that is made",
                ctx,
            )


def read_prompt(given: str) -> str:
    """The prompt, from stdin when it is `-`.

    Raises:
        click.UsageError: it is empty, or not text.
    """
    if given != "-":
        prompt, source = given, "the prompt"
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise click.UsageError("the prompt is not UTF-8 text") from None
    else:
        source = "the prompt on stdin"
        if sys.stdin.isatty():
            click.echo("reading the prompt from the terminal; Ctrl-D ends it", err=True)
        try:
            prompt = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise click.UsageError("the prompt on stdin is not UTF-8 text") from None
    if not prompt.strip():
        raise click.UsageError(f"{source} is empty")
    return prompt


def read_making(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `making`, with the instructions read.

    Raises:
        click.UsageError: they are not text.
    """
    file: IO[str] | None = options.pop("instructions")
    try:
        instructions = "" if file is None else file.read()
    except UnicodeDecodeError:
        raise click.UsageError(
            f"{getattr(file, 'name', '--instructions')} is not UTF-8 text"
        ) from None
    creds: Path | None = options.pop("creds")
    return options | {"instructions": instructions, "creds": creds, "env": dict(options["env"])}
