"""The `jetcrew` command."""

import sys


def main() -> None:
    """The entry point of the console script; never returns."""
    from services.cli.app import run

    sys.exit(run(sys.argv[1:]))
