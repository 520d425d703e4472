"""Implement `tmde models`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import JsonFlag, format_bytes, print_json, print_table
from tmde_core.records.runtimes import ModelInfo

if TYPE_CHECKING:
    from tmde_core.runtimes import RuntimeReport


def command(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the models that can be asked, by runtime. A runtime whose server does not answer has no models."""
    import asyncio

    settings = settings_of(ctx)
    log_to_file(settings)

    async def listed() -> tuple[Sequence[ModelInfo], Sequence[RuntimeReport]]:
        from tmde_core.plugins import Plugins
        from tmde_core.runtimes import Runtimes

        runtimes = Runtimes(Plugins.load(), settings)
        try:
            return await runtimes.models(), await runtimes.reports()
        finally:
            await runtimes.stop()

    models, reports = asyncio.run(listed())
    if json:
        print_json(models)
        return
    rows = [
        (
            model.runtime,
            model.name,
            model.context_length,
            format_bytes(model.size_bytes),
            model.default,
            model.loaded,
            model.detail,
        )
        for model in models
    ]
    print_table(
        ("runtime", "model", "context", "size", "default", "loaded", "detail"),
        rows,
        empty="No runtime has a model. `tmde doctor` says what each one lacks.",
        right=("context", "size"),
    )
    for report in reports:
        if not report.availability.ok:
            typer.echo(f"{report.name}: {report.availability.reason}", err=True)
        elif report.status.state == "paused":
            typer.echo(f"{report.name}: {report.status.detail}", err=True)
