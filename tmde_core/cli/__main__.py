"""Run `python -m tmde_core.cli`, the same as `tmde`."""

from tmde_core.cli import main

main()
