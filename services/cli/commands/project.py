"""`jetcrew project`."""

from typing import Any

import click

from services.cli.options import as_json, budgeting, connecting


@click.group()
def project() -> None:
    """Create, list, show, update, archive projects: names under which workers spend together.

    \b
        jetcrew project create apollo --budget-usd 20
        jetcrew worker create ada --agent claude --project apollo --secret ANTHROPIC_API_KEY
        jetcrew project get apollo
        jetcrew project update apollo --budget-usd 40
    """


@project.command()
@click.argument("name")
@budgeting
@as_json
@connecting
@click.pass_context
def create(ctx: click.Context, /, **options: Any) -> None:
    """Make the project NAME. A budget holds for the tasks of all its workers together.

    \b
        jetcrew project create apollo --budget-usd 20 --budget-turns 500
    """
    from services.cli.projects import create_project
    from services.cli.session import converse

    converse(ctx, options, lambda session: create_project(session, options))


@project.command()
@click.argument("name")
@budgeting
@click.option(
    "--lift",
    type=click.Choice(["usd", "tokens", "turns"]),
    multiple=True,
    help="Take this bound away.  [repeatable]",
)
@as_json
@connecting
@click.pass_context
def update(ctx: click.Context, /, **options: Any) -> None:
    """Change bounds of the project NAME; those that are not named stay, and so does what it has spent.

    \b
        jetcrew project update apollo --budget-usd 40
        jetcrew project update apollo --lift turns
    """
    from services.cli.projects import update_project
    from services.cli.session import converse

    converse(ctx, options, lambda session: update_project(session, options))


@project.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def archive(ctx: click.Context, /, **options: Any) -> None:
    """Close the project NAME for good: no worker is made in it, no task of its workers is started.

    \b
        jetcrew project archive apollo
    """
    from services.cli.projects import archive_project
    from services.cli.session import converse

    converse(ctx, options, lambda session: archive_project(session, options))


@project.command("list")
@click.option("--all", "every", is_flag=True, help="Those that are archived, too.")
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The projects there are, with what they have spent.

    \b
        jetcrew project list
        jetcrew project list --json | jq '.[] | {name, spent}'
    """
    from services.cli.projects import list_projects
    from services.cli.session import converse

    converse(ctx, options, lambda session: list_projects(session, options))


@project.command()
@click.argument("name")
@as_json
@connecting
@click.pass_context
def get(ctx: click.Context, /, **options: Any) -> None:
    """What is known of the project NAME: its bounds, what it has spent, what its agents did not tell.

    \b
        jetcrew project get apollo
        jetcrew project get apollo --json | jq .spent.usd
    """
    from services.cli.projects import get_project
    from services.cli.session import converse

    converse(ctx, options, lambda session: get_project(session, options))
