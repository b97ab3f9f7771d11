"""One command's conversation with a crew: connect, do one thing, print it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from contracts.bus import Bus
from services.cli.app import flags
from services.cli.link import linked
from services.cli.screen import Screen
from services.cli.settings import Environment
from services.cli.target import Target, find_target

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Session:
    """The connection, and where it goes."""

    bus: Bus
    target: Target
    environment: Environment
    screen: Screen


@contextlib.asynccontextmanager
async def opened(options: dict[str, Any], *, debug: bool = False) -> AsyncIterator[Session]:
    """A session with the crew that `--url`, `--creds`, `--context` or the environment name."""
    environment = Environment.read()
    url: str | None = options.pop("url")
    creds: Path | None = options.pop("creds")
    context: str | None = options.pop("context")
    target = find_target(environment, url=url, creds=creds, context=context)
    async with linked(target, debug=debug) as bus:
        yield Session(bus=bus, target=target, environment=environment, screen=Screen())


def converse(
    ctx: click.Context, options: dict[str, Any], talk: Callable[[Session], Awaitable[T]]
) -> T:
    """Run `talk` with a session; `options` lose those that say which crew is meant."""

    async def conversation() -> T:
        async with opened(options, debug=flags(ctx)["debug"]) as session:
            return await talk(session)

    return asyncio.run(conversation())


def print_json(value: object) -> None:
    """One document on one line."""
    click.echo(msgspec.json.encode(value).decode())


def plain(value: object) -> Any:
    """As dicts, lists and strings."""
    return json.loads(msgspec.json.encode(value))
