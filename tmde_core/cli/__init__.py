"""The command line. Importing this package loads almost nothing, so that `tmde --help` stays fast."""

from __future__ import annotations


def main() -> None:
    """Run the `tmde` program."""
    from tmde_core.cli.app import run  # imported here, so that importing the package stays cheap

    run()
