"""Options that several commands share, and the kinds of values they take."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Duration(click.ParamType[float]):
    """Seconds, or a figure with a unit: `90`, `1.5h`, `30m`. `days` is how long it may be at most."""

    name = "duration"

    def __init__(self, days: int = 7) -> None:
        self._days = days

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value.strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= self._days * _UNITS["d"]:
            self.fail(
                f"{value!r} is no duration: seconds, or a figure with s, m, h or d, "
                f"{self._days} days at most",
                param,
                ctx,
            )
        return seconds


class Wait(Duration):
    """A duration that may be `never`."""

    name = "wait"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds; 0 is never."""
        if value in {"never", "0"}:
            return 0.0
        return super().convert(value, param, ctx)


class JsonObject(click.ParamType[dict[str, object]]):
    """A file that holds a JSON object."""

    name = "json"

    def convert(
        self,
        value: str | dict[str, object],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, object]:
        """The object."""
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(Path(value).read_bytes())
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value} is not valid JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value} holds no JSON object", param, ctx)
        return found


class Assignment(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, where KEY is an environment variable's name."""

    name = "key=value"

    def convert(
        self,
        value: str | tuple[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, str]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        name, equals, content = value.partition("=")
        if not equals or not _NAME.fullmatch(name):
            self.fail(f"{value!r} is not KEY=VALUE, as in LANG=C.UTF-8", param, ctx)
        return name, content


class SecretName(click.ParamType[str]):
    """A variable of the caller's environment; its value never stands on a command line."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        if "=" in value:
            self.fail(
                "takes a name only; the value comes from your environment, "
                f"never from the command line: export {value.partition('=')[0]}=…",
                param,
                ctx,
            )
        if not _NAME.fullmatch(value):
            self.fail(f"{value!r} is no name of an environment variable", param, ctx)
        return value


class NameOf(click.ParamType[str]):
    """A name such as workers and nodes have. `what` bears it."""

    def __init__(self, what: str) -> None:
        self.name = "name"
        self._what = what

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        from contracts.ids import is_token

        if not is_token(value):
            self.fail(
                f"{value!r} is no name of {self._what}: lower-case letters, digits and dashes, 40 at most",
                param,
                ctx,
            )
        return value


def connecting(command: F) -> F:
    """Options that say which crew is meant."""
    for option in (
        click.option(
            "--context",
            metavar="NAME",
            help="Use the crew that this context of the nats CLI points at (jetcrew context save).",
        ),
        click.option(
            "--creds",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Credentials file for --url.  [env: JETCREW_CREDS]",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="Use the crew behind this NATS server, as in nats://host:4222.  [env: JETCREW_URL]",
        ),
    ):
        command = option(command)
    return command


def as_json(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def making(command: F) -> F:
    """Options of a worker that is to be made."""
    for option in reversed(
        (
            click.option(
                "--agent", metavar="NAME", help="The agent: claude, shell, …  [default: claude]"
            ),
            click.option(
                "--runtime",
                type=click.Choice(["auto", "docker", "process"]),
                help="auto is docker where an engine answers, else a plain process, which isolates "
                "nothing.  [default: auto]",
            ),
            click.option(
                "--instructions",
                type=click.File("r", encoding="utf-8"),
                metavar="FILE",
                help="Standing instructions: becomes CLAUDE.md, AGENTS.md, … of the agent.",
            ),
            click.option(
                "--env",
                type=Assignment(),
                multiple=True,
                metavar="KEY=VALUE",
                help="Set a variable of the agent's environment, in clear.  [repeatable]",
            ),
            click.option(
                "--secret",
                "secrets",
                type=SecretName(),
                multiple=True,
                metavar="NAME",
                help="Give the agent the secret NAME, taken from your environment.  [repeatable]",
            ),
            click.option(
                "--capability",
                "capabilities",
                multiple=True,
                metavar="NAME",
                help="A tool set in the worker: git, node, python, …  [repeatable]",
            ),
            click.option("--owner", metavar="NAME", help="Whose workers share sessions by name."),
            click.option(
                "--network",
                type=click.Choice(["none", "bridge"]),
                help="bridge: out to the internet; none: nothing but the bus. Docker only.  "
                "[default: bridge]",
            ),
            click.option(
                "--project",
                metavar="NAME",
                help="Spend in this project, which exists, besides what other budgets say.",
            ),
        )
    ):
        command = option(command)
    return command


def bounding(command: F) -> F:
    """Options of a worker that is to be made: what it may use, and how long it waits and lives."""
    for option in reversed(
        (
            click.option("--memory", type=int, metavar="MIB", help="Memory.  [default: 2048]"),
            click.option("--cpus", type=float, metavar="N", help="CPUs.  [default: 2]"),
            click.option(
                "--pids", type=int, metavar="N", help="Processes at once.  [default: 512]"
            ),
            click.option(
                "--queue-timeout",
                type=Wait(),
                metavar="TIME",
                help="Time it may wait for room: 90, 30m, never.  [default: the operator's, 30m]",
            ),
            click.option(
                "--idle-pause",
                type=Wait(),
                metavar="TIME",
                help="Freeze it after so long without a task, until one comes: 90, 30m, never.  "
                "[default: the operator's, 15m]",
            ),
            click.option(
                "--idle-expiry",
                type=Wait(),
                metavar="TIME",
                help="Delete it, files included, after so long without a task: 2h, never.  "
                "[default: the operator's, never]",
            ),
        )
    ):
        command = option(command)
    return command


def carrying(command: F) -> F:
    """A repository that goes along."""
    for option in reversed(
        (
            click.option(
                "--repo",
                metavar="PATH|URL",
                help="Send this repository along, as it is committed; a URL is cloned here first.",
            ),
            click.option(
                "--dirty", is_flag=True, help="What is not committed, too; ignored files excepted."
            ),
            click.option(
                "--depth",
                type=click.IntRange(1, 1_000_000),
                metavar="N",
                help="The last N commits only.  [default: all; 1 when that is over 64 MiB]",
            ),
            click.option(
                "--repo-limit",
                type=click.IntRange(1, 256),
                metavar="MIB",
                help="The most it may have, there and back.  [default: 256]",
            ),
        )
    ):
        command = option(command)
    return command


def trusting(command: F) -> F:
    """`--trust-repo`."""
    return click.option(
        "--trust-repo",
        "trust_repository",
        is_flag=True,
        help="Let the agent read configuration of its own that is in the repository (.claude, .mcp.json, …).",
    )(command)


def applying(command: F) -> F:
    """`--apply`."""
    return click.option(
        "--apply",
        is_flag=True,
        help="Merge the work, if the work tree is clean and there are no conflicts.",
    )(command)


def budgeting(command: F) -> F:
    """What may be used of a model."""
    for option in reversed(
        (
            click.option(
                "--budget-usd",
                type=float,
                metavar="USD",
                help="What it may cost, as the agent reckons.",
            ),
            click.option(
                "--budget-tokens",
                type=int,
                metavar="N",
                help="Tokens it may use, cache reads not counted.",
            ),
            click.option(
                "--budget-turns", type=int, metavar="N", help="Answers of the model it may take."
            ),
        )
    ):
        command = option(command)
    return command


def conversing(command: F) -> F:
    """`--session`."""
    return click.option(
        "--session",
        default="continue",
        show_default=True,
        metavar="NAME",
        help="continue the conversation, start a new one, or go on with one by name.",
    )(command)


def shaping(command: F) -> F:
    """The form of what a task is to come to."""
    return click.option(
        "--data-schema",
        type=JsonObject(),
        metavar="FILE",
        help="JSON Schema of the data in the verdict; a success whose data does not match is a failure.",
    )(command)
