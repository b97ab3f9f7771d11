"""The `jetcrew` command."""

import sys


def main() -> None:
    """The entry point of the console script; never returns."""
    try:
        from services.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to be interrupted
        code = 130
    sys.exit(code)
