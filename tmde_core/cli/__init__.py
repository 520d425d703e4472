"""The command line. Importing this loads next to nothing; `tmde --help` stays fast that way."""

from __future__ import annotations


def main() -> None:
    """The `tmde` program."""
    from tmde_core.cli.app import run  # here, so that importing the package costs nothing

    run()
