"""`jetcrew version`."""

import json

import click

from services.cli.options import as_json


@click.command()
@as_json
def version(as_json: bool) -> None:
    """Print the version."""
    from contracts import __version__

    click.echo(json.dumps({"version": __version__}) if as_json else __version__)
