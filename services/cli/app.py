"""The root of the command line. Commands are imported when they are used: `--help` should be quick."""

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

HELP = """A crew of headless coding agents, isolated, commanded and observed over NATS JetStream.

\b
    jetcrew run --agent shell "uname -a"      one prompt, start to verdict; nothing else is needed
    jetcrew up                                a crew that stays; `run` and the rest then use it
    jetcrew worker create ada --agent claude  a worker that keeps its workspace and conversation
    jetcrew task submit ada "Add a test"      a prompt for it

Everything is kept in one directory: $JETCREW_STATE_DIR, by default ~/.local/state/jetcrew.

Exit codes: 0 success, 1 the task did not succeed, 2 wrong usage, 3 the infrastructure failed, 130 interrupted.
"""

COMMANDS = {
    "init": ("init", "Make the identity and the directories of a crew."),
    "up": ("up", "Run a crew until it is stopped: NATS server, manager, HTTP API."),
    "down": ("up", "Stop the crew that `jetcrew up` runs."),
    "run": ("run", "Give one prompt to an agent and follow it to its verdict."),
    "worker": ("worker", "Create, list, show, delete workers; read their output."),
    "task": ("task", "Submit, list, show, await, cancel tasks; read their events."),
    "project": ("project", "Create, list, show, update, archive projects: what is spent together."),
    "session": ("session", "List and forget sessions: conversations, shared or a worker's own."),
    "node": ("node", "List the nodes of the crew."),
    "image": ("image", "List worker images, and remove what nothing needs any more."),
    "dlq": ("dlq", "List, show, redrive, drop dead letters: messages that nobody could handle."),
    "events": ("events", "Follow what happens in the crew."),
    "doctor": ("doctor", "Look for what is missing or wrong, and say what to do."),
    "context": ("context", "Contexts of the stock nats CLI."),
    "contracts": ("contracts", "The messages of all doors, as JSON Schema."),
    "completion": ("completion", "Print a shell's completion script."),
    "version": ("version", "Print the version."),
}
"""Command name → module of `services.cli.commands` and the line that `--help` shows."""


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"services.cli.commands.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])


@click.group(cls=Lazy, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and the connection's own log.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Show the log of the processes that are started."
)
@click.version_option(package_name="jetcrew", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context, debug: bool, verbose: bool) -> None:
    """The options that every command has."""
    given = {"debug": debug, "verbose": verbose, "command": ctx.invoked_subcommand}
    ctx.ensure_object(dict).update(given)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; the exit code. Never raises."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    debug = "--debug" in arguments
    as_json = "--json" in takewhile(lambda argument: argument != "--", arguments)
    given: dict[str, Any] = {}
    stdout = sys.stdout
    try:
        _check_text(arguments)
        code = root.main(
            args=list(arguments), prog_name="jetcrew", standalone_mode=False, obj=given
        )
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        return _wrong_usage(error, given, as_json=as_json)
    except BrokenPipeError:
        return _unread()
    except SystemExit as leaving:
        if sys.stdout is not stdout:  # click met a closed pipe, and put a wrapper there
            return _unread()
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException as error:  # noqa: BLE001  # the last line of defence: no traceback for users
        return _failed(error, given, debug=debug, as_json=as_json)
    return code if isinstance(code, int) else 0


def _open_what_is_closed() -> None:
    """A caller may have closed any of the three standard streams; then there is nothing to be read or said."""
    nowhere = Path(os.devnull)  # opened for as long as the process lasts
    sys.stdin = sys.stdin or nowhere.open(encoding="utf-8")
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")


def _check_text(arguments: Sequence[str]) -> None:
    from services.cli.text import is_text

    for number, argument in enumerate(arguments, 1):
        if not is_text(argument):
            raise click.UsageError(f"argument {number} is not UTF-8 text")


def _wrong_usage(error: click.ClickException, given: dict[str, Any], *, as_json: bool) -> int:
    from services.cli.failures import Usage

    path = "jetcrew"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    text = f"{error.format_message().rstrip('.')} ({path} --help tells more)"
    return _failed(Usage(text), given, debug=False, as_json=as_json)


def _failed(error: BaseException, given: dict[str, Any], *, debug: bool, as_json: bool) -> int:
    from services.cli.failures import (
        OutputClosed,
        exit_code,
        failure_document,
        first_of,
        sentence,
    )

    if debug:
        traceback.print_exception(error)
    cause = first_of(error)
    if isinstance(cause, OutputClosed | BrokenPipeError):
        return _unread()
    if isinstance(cause, KeyboardInterrupt):
        return exit_code(cause)
    if as_json:
        try:
            click.echo(json.dumps(failure_document(given.get("command") or "", cause)))
        except OSError:
            return _unread()
    _complain(sentence(cause))
    return exit_code(cause)


def _complain(text: str) -> None:
    from services.cli.text import clean

    try:
        click.echo(f"jetcrew: {clean(text).rstrip()}", err=True)
    except OSError:
        return  # nobody listens


def _unread() -> int:
    """Whoever read our output has gone: say nothing, and keep the interpreter from trying again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def flags(ctx: click.Context) -> Any:
    """What the root's options said."""
    return ctx.find_root().obj or {"debug": False, "verbose": False}
