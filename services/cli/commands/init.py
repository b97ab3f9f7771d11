"""`jetcrew init`."""

import json

import click

from services.cli.options import as_json
from services.cli.settings import Environment


@click.command()
@as_json
def init(as_json: bool) -> None:
    """Make the identity and the directories of a crew.

    Keys, accounts and credentials are made where they are missing; what is there stays. `up` and `run`
    do the same by themselves.

    \b
        jetcrew init
        JETCREW_STATE_DIR=/srv/jetcrew jetcrew init
    """
    from contracts.topology import Topology
    from services.kit.identity.store import create_identity
    from services.kit.state import StateDirectory

    environment = Environment.read()
    state = StateDirectory.at(environment.state_dir)
    there = (state.identity / "crew.json").exists()
    identity = create_identity(state, Topology(environment.prefix))
    state.workers.mkdir(mode=0o700, exist_ok=True)
    operator = state.creds("operator")
    if as_json:
        click.echo(
            json.dumps(
                {
                    "state_dir": str(state.root),
                    "crew": identity.crew,
                    "made": not there,
                    "operator_creds": str(operator),
                }
            )
        )
        return
    click.echo(f"{'found' if there else 'made'} the identity of crew {identity.crew[:8]}")
    click.echo(f"state directory: {state.root}")
    click.echo(f"your credentials: {operator}")
    if not there:
        click.echo("next: jetcrew up")
