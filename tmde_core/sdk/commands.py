"""Supports a plugin's own commands, `tmde WORD`, which are entry points in the group `tmde.commands`.

The entry point names a function or a `typer.Typer`. It is imported only when the command is called, so it may import
heavy packages. Raise the errors of `tmde_core.sdk.errors`: `tmde` prints their sentence and exits with 1, or with 2 for
an `InvalidInputError`. Every command accepts `--data-dir` automatically.

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
    """Return the command's data directory: `--data-dir`, else `TMDE_DATA_DIR`, else the platform's default."""
    chosen: Path | None = getattr(ctx.obj, "data_dir", None)
    return (chosen or default_data_dir()).expanduser().absolute()
