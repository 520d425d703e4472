"""Implement `tmde finetune preview`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import (
    JsonFlag,
    console,
    error_console,
    format_bytes,
    format_duration,
    plain,
    print_fields,
    print_json,
)
from tmde_core.finetune.ranges import decode_config
from tmde_core.records.finetune import FineTunePreview

if TYPE_CHECKING:
    from tmde_core.services import Services

SHOWN_LEFT_OUT = 10
BAR = 40
"""Characters of the longest bar."""
PLACES = {"card": "on the card", "ram": "in memory"}
EXAMPLE_CHARS = 4_000
"""The longest part of the first example that is shown. An answer may have any length."""


def preview_command(values: Callable[[Sequence[str]], dict[str, Any]]) -> Callable[..., None]:
    """Return the command. `values` parses NAME=VALUE in the same way as `tmde finetune start`."""

    def preview(
        ctx: typer.Context,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="A hyperparameter, as NAME=VALUE; may be repeated.", metavar="NAME=VALUE"),
        ] = None,
        backend: Annotated[str | None, typer.Option(help="Which training backend.")] = None,
        json: JsonFlag = False,
    ) -> None:
        """Show what a run would be trained on, what is left out and why, and what it would need. Nothing is started."""
        changes = values(set_ or ()) | ({"backend": backend} if backend else {})
        if not json:
            error_console().print("Looking at the examples; a model may have to be measured first …", style="dim")
        found = with_services(ctx, lambda services: _preview(services, changes, quiet=json))
        if json:
            print_json(found)
        else:
            _print(found)

    return preview


async def _preview(services: Services, changes: dict[str, Any], *, quiet: bool) -> FineTunePreview:
    """Return the finished preview. On the way, say on stderr what it waits for, once for each step."""
    from tmde_core.finetune.preview.service import WAITS  # imported here, so that lists of runs start faster

    told = False
    async with aclosing(services.previews.parts(decode_config(changes, services.finetune.config()))) as parts:
        async for found in parts:
            if found.note.startswith(WAITS) and not quiet and not told:
                error_console().print(f"{plain(found.note)} The preview goes on after that.", style="dim")
                told = True
    return found


def _print(found: FineTunePreview) -> None:
    from tmde_core.finetune.preview.service import LISTED  # imported here, so that lists of runs start faster

    tokens = None
    if found.total_tokens is not None:
        tokens = f"{found.supervised_tokens:,} of {found.total_tokens:,} are learned from"
    memory = format_bytes(found.estimated_ram_bytes) if found.estimated_ram_bytes else None
    computed = "" if found.calibrated else " (computed)"
    print_fields(
        (
            ("would begin", "no: " + found.refusal if found.refusal else "yes"),
            ("examples", f"{found.examples:,} ({found.required:,} needed)"),
            ("to train on", found.train_examples),
            ("to validate on", found.val_examples),
            ("left out", ", ".join(f"{count:,} {why}" for why, count in found.left_out_by_reason.items()) or None),
            ("tokens", tokens),
            ("longest", f"{found.longest:,} tokens" if found.longest else None),
            ("steps", f"{found.total_steps:,}" if found.total_steps else None),
            ("takes about", format_duration(found.estimated_seconds) + computed if found.estimated_seconds else None),
            ("memory", memory),
            ("video memory", format_bytes(found.estimated_vram_bytes) if found.estimated_vram_bytes else None),
            *((PLACES[fit.place], " ".join((fit.text, *fit.remedies))) for fit in found.fits),
            ("estimates", found.basis or None),
            ("models", found.pause or None),
            ("note", found.note if found.note != found.refusal else None),
        )
    )
    out = console()
    if found.histogram:
        out.print("\nExamples by tokens", style="bold")
        most = max(bucket.examples for bucket in found.histogram)
        for bucket in found.histogram:
            bar = "█" * round(BAR * bucket.examples / most) or ("▏" if bucket.examples else "")
            out.print(Text(f"{bucket.low:>6,} to {bucket.high - 1:>6,}  {bucket.examples:>5,}  {bar}"))
    if found.left_out:
        out.print("\nLeft out", style="bold")
        for one in found.left_out[:SHOWN_LEFT_OUT]:
            out.print(Text(f"  {one.trace_id}  {one.reason}: {plain(one.detail)}"))
        if (more := sum(found.left_out_by_reason.values()) - min(len(found.left_out), SHOWN_LEFT_OUT)) > 0:
            out.print(f"  and {more:,} more; --json has up to {LISTED} of each kind")
    if found.first_example:
        out.print("\nThe first example; what is marked is learned from", style="bold")
        example, room = Text(), EXAMPLE_CHARS
        for piece in found.first_example:
            text = plain(piece.text)[: max(room, 0)]
            # The text is also marked with brackets, because colour is not always available.
            example.append(f"⟦{text}⟧" if piece.supervised else text, style="bold green" if piece.supervised else "dim")
            room -= len(text)
        if room <= 0:
            example.append(" … (it goes on)")
        out.print(example)


def register(command: typer.Typer, values: Callable[[Sequence[str]], dict[str, Any]]) -> None:
    """Add the command to `tmde finetune`."""
    command.command("preview")(preview_command(values))
