"""`jetcrew context`."""

from typing import Any

import click

from services.cli.options import as_json, connecting


@click.group()
def context() -> None:
    """Contexts of the stock nats CLI."""


@context.command()
@click.argument("name", default="jetcrew")
@click.option(
    "--select", is_flag=True, help="Make it the one the nats CLI uses, whatever it used before."
)
@click.option("--no-select", is_flag=True, help="Do not select it, even if none is selected.")
@click.option("--force", is_flag=True, help="Replace a context of this name that points elsewhere.")
@as_json
@connecting
@click.pass_context
def save(ctx: click.Context, /, **options: Any) -> None:
    """Write the context NAME, so that the stock nats CLI speaks to this crew.

    It becomes the selected one only when none is selected. Without a running crew the address of the
    last one is taken: the port stays the same.

    \b
        jetcrew context save && nats sub 'jetcrew.evt.>'
        jetcrew context save work && nats --context work kv ls jc_worker
    """
    from services.cli.contexts import save_context

    if options["select"] and options["no_select"]:
        raise click.UsageError("--select and --no-select exclude each other", ctx)
    save_context(options)
