"""A plugin's own commands: `tmde WORD`, named by entry points in the group `tmde.commands`.

The entry point leads to a function or a `typer.Typer`, as typer takes them. It is imported when the command is called
and not before, so it may import what it likes. Raise the errors of `tmde_core.sdk.errors`: `tmde` prints their
sentence and exits with 1. `--data-dir` is understood by every command without its doing.

    import typer
    from tmde_core.sdk.commands import data_dir_of

    def command(ctx: typer.Context) -> None:
        \"\"\"Count the trained adapters.\"\"\"
        print(len(list((data_dir_of(ctx) / "lora-adapters").glob("*/manifest.json"))))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tmde_core.settings import default_data_dir

if TYPE_CHECKING:
    import typer

__all__ = ["data_dir_of"]


def data_dir_of(ctx: typer.Context) -> Path:
    """Return the data directory of the running command: `--data-dir`, else `TMDE_DATA_DIR`, else the platform's place."""
    chosen: Path | None = getattr(ctx.obj, "data_dir", None)
    return (chosen or default_data_dir()).expanduser().absolute()
