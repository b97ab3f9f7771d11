"""`jetcrew doctor`."""

import asyncio
from typing import Any

import click

from services.cli.options import as_json, connecting


@click.command()
@as_json
@connecting
def doctor(**options: Any) -> int:
    """Look for what is missing or wrong, and say what to do.

    Looks at the state directory, the identity, the settings, the NATS server and what is on it, the manager,
    the nodes, the HTTP API, the container engine and the disk. Changes nothing. Exits with 1 when something
    is wrong; what is merely absent is a note.

    \b
        jetcrew doctor
        jetcrew doctor --json | jq '.[] | select(.status == "wrong")'
    """
    from services.cli.checks import examine
    from services.cli.findings import WRONG
    from services.cli.session import print_json
    from services.cli.text import clean

    findings = asyncio.run(examine(options))
    if options["as_json"]:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{finding.status:<6} {finding.check}: {clean(finding.detail)}")
            if finding.do:
                click.echo(f"       → {clean(finding.do)}")
    return 1 if any(finding.status == WRONG for finding in findings) else 0
