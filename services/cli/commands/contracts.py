"""`jetcrew contracts`."""

import json
from pathlib import Path

import click

from services.cli.options import as_json


@click.group()
def contracts() -> None:
    """The messages of all doors, as JSON Schema."""


@contracts.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@as_json
def export(directory: Path, as_json: bool) -> None:
    """Write contracts.json and messages/NAME.json into DIR, which is made.

    \b
        jetcrew contracts export schemas
    """
    from contracts.schema import export as write
    from services.cli.failures import Usage

    try:
        paths = write(directory)
    except OSError as error:
        raise Usage(f"cannot write to {error.filename or directory}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps([str(path) for path in paths]))
    else:
        click.echo(f"{len(paths)} files in {directory}")
