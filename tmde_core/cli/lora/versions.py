"""Implement `tmde lora tag`, `delete`, `prune`, `verify`, `compare` and `storage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tmde_core.cli.kit.invocation import after, with_reading, with_services
from tmde_core.cli.kit.output import (
    Cell,
    JsonFlag,
    cell,
    confirm_deletion,
    format_bytes,
    format_duration,
    print_fields,
    print_json,
    print_table,
)
from tmde_core.errors import InvalidInputError

if TYPE_CHECKING:
    from tmde_core.records.lora import AdapterComparison, LoRAAdapter, Verification
    from tmde_core.services import Services

AdapterId = Annotated[str, typer.Argument(help="The adapter's id, its first digits, or its name.", metavar="ID")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def tag(
    ctx: typer.Context,
    id: AdapterId,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="A tag to put on; may be repeated.", metavar="TAG")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="A tag to take off; may be repeated.", metavar="TAG")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add tags to an adapter and remove tags from it. The tag `stable` prevents deletion."""
    if not add and not remove:
        raise InvalidInputError("Say which tags: --add TAG, --remove TAG.", field="add")
    adapter = with_services(
        ctx,
        lambda services: after(
            services.ids.adapter(id, named=True), lambda one: services.lora.tag(one, add or (), remove or ())
        ),
    )
    if json:
        print_json(adapter)
    else:
        typer.echo(f"Tags: {', '.join(adapter.tags) or 'none'}.")


def name(
    ctx: typer.Context,
    id: AdapterId,
    new: Annotated[str, typer.Argument(help="The new name.", metavar="NAME")],
    json: JsonFlag = False,
) -> None:
    """Give an adapter a name of its own."""
    adapter = with_services(
        ctx, lambda services: after(services.ids.adapter(id, named=True), lambda one: services.lora.rename(one, new))
    )
    if json:
        print_json(adapter)
    else:
        typer.echo(f"The adapter {adapter.id} is called {adapter.name} now.")


def delete(ctx: typer.Context, id: AdapterId, yes: Yes = False, json: JsonFlag = False) -> None:
    """Delete an adapter from the disk completely. Its events stay in the history."""
    adapter = with_services(ctx, lambda services: after(services.ids.adapter(id, named=True), services.lora.get))
    identity = adapter.id
    confirm_deletion(
        yes,
        f"Delete the adapter {identity}, {adapter.name} ({format_bytes(adapter.size_bytes)})? It cannot be brought back.",
    )
    with_services(ctx, lambda services: services.lora.delete(identity))
    if json:
        print_json(adapter)
    else:
        typer.echo(f"The adapter {identity} is deleted; {format_bytes(adapter.size_bytes)} are free.")


def prune(
    ctx: typer.Context,
    keep: Annotated[int, typer.Option(min=0, help="So many of the newest stay.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which would go.")] = False,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Delete all but the newest adapters. The active one, the previous one and `stable` ones are always kept."""
    doomed = with_services(ctx, lambda services: services.lora.prune(keep, dry_run=True))
    if doomed and not dry_run:
        if not json:
            _print_doomed(doomed)
        freed = sum(one.size_bytes for one in doomed)
        confirm_deletion(yes, f"Delete these {len(doomed)} ({format_bytes(freed)})? They cannot be brought back.")
        doomed = with_services(ctx, lambda services: services.lora.prune(keep))
    if json:
        print_json({"deleted": doomed, "bytes": sum(one.size_bytes for one in doomed), "dryRun": dry_run})
    elif dry_run or not doomed:
        _print_doomed(doomed)
    else:
        typer.echo(f"Deleted {len(doomed)}; {format_bytes(sum(one.size_bytes for one in doomed))} are free.")


def verify(
    ctx: typer.Context,
    id: Annotated[
        str | None, typer.Argument(help="The adapter's id, its first digits, or its name.", metavar="[ID]")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every adapter.")] = False,
    json: JsonFlag = False,
) -> None:
    """Read every byte of an adapter and compare it with the manifest. The exit code is 1 if something is wrong."""
    if (id is None) != everything:
        raise InvalidInputError("Name one adapter, or say --all.", field="id")

    async def check(services: Services) -> list[Verification]:
        chosen = (
            [one.id for one in await services.lora.list()]
            if everything
            else [await services.ids.adapter(id or "", named=True)]
        )
        return [await services.lora.verify(one) for one in chosen]

    found = with_services(ctx, check)
    if json:
        print_json(found if everything else found[0])
    else:
        print_table(
            ("id", "state", "files", "size", "took", "problems"),
            [
                (
                    str(one.adapter_id),
                    "sound" if one.is_valid else "damaged",
                    one.files,
                    format_bytes(one.bytes),
                    format_duration(one.ms / 1000),
                    " ".join(one.reasons),
                )
                for one in found
            ],
            empty="There are no adapters.",
            right=("files", "size"),
        )
    if not all(one.is_valid for one in found):
        raise typer.Exit(1)


def compare(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(help="An adapter's id.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another's.", metavar="B")],
    json: JsonFlag = False,
) -> None:
    """Compare two adapters: what changed from A to B in configuration, data, metrics and benchmark."""

    async def look(services: Services) -> AdapterComparison:
        first, second = [await services.ids.adapter(one, named=True) for one in (a, b)]
        return await services.lora.compare(first, second)

    found = with_services(ctx, look)
    if json:
        print_json(found)
        return
    print_table(("adapter", "id", "name", "created", "gate"), [_line("A", found.a), _line("B", found.b)], empty="")
    typer.echo("")
    rows: list[tuple[Cell, ...]] = [
        ("configuration: " + one.name, _short(one.a), _short(one.b)) for one in found.config
    ]
    rows += [(one.name, _short(one.a), _short(one.b)) for one in found.metrics]
    print_table(("what", "A", "B"), [*rows, *_data(found)], empty="They differ in nothing.")
    _print_benchmark(found.benchmark)


def _line(name: str, adapter: LoRAAdapter) -> tuple[Cell, ...]:
    return name, str(adapter.id), adapter.name, adapter.created_at, adapter.gate


def _data(found: AdapterComparison) -> list[tuple[Cell, ...]]:
    if found.same_dataset:
        return [("traces", f"the same {found.traces_shared}", f"the same {found.traces_shared}")]
    return [
        ("traces of both", found.traces_shared, found.traces_shared),
        ("traces of one only", len(found.traces_removed), len(found.traces_added)),
    ]


def _print_benchmark(found: Any) -> None:
    if found is None:
        typer.echo("\nNo comparable benchmark runs of both. `tmde bench run --adapter ID` measures one.")
        return
    quality = found.quality
    typer.echo("")
    interval = None if quality.low is None else f"{quality.low:+.2f} to {quality.high:+.2f}"
    print_fields(
        (
            ("benchmark", f"{quality.n} questions in both"),
            ("quality, B over A", None if quality.difference is None else f"{quality.difference:+.2f} points of 10"),
            ("95 % interval", interval),
            ("p", quality.deciding_p),
            ("verdict", quality.outcome),
        )
    )


def storage(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show how much disk space the adapters use."""
    found = with_reading(ctx, lambda services: services.lora.measure_storage())
    if json:
        print_json(found)
        return
    print_fields(
        (
            ("adapters", found.adapters),
            ("damaged", found.invalid or None),
            ("take", format_bytes(found.bytes)),
            ("free", format_bytes(found.free_bytes)),
        )
    )


def _print_doomed(doomed: Sequence[LoRAAdapter]) -> None:
    print_table(
        ("id", "name", "created", "gate", "size", "tags"),
        [
            (str(one.id), one.name, one.created_at, one.gate, format_bytes(one.size_bytes), ", ".join(one.tags))
            for one in doomed
        ],
        empty="Nothing to delete.",
        right=("size",),
    )


def _short(value: Any) -> Cell:
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}" if len(cell(str(value))) > 40 else str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def details_fields(lineage: Mapping[str, Any], history: Sequence[Any]) -> list[tuple[str, Cell]]:
    """Return the fields about an adapter's origin that `tmde lora show` prints."""
    traces = lineage.get("traceIds")
    count = len(traces) if isinstance(traces, list) else None
    return [
        ("from run", str(lineage["runId"]) if lineage.get("runId") else None),
        ("learned from", None if count is None else f"{count} traces"),
        ("origin id", str(lineage["originId"]) if lineage.get("originId") else None),
        (
            "history",
            f"{len(history)} {'entry' if len(history) == 1 else 'entries'}; `tmde lora history` has all"
            if history
            else None,
        ),
    ]


def register(command: typer.Typer) -> None:
    """Add the commands to `tmde lora`."""
    for function in (tag, name, delete, prune, verify, compare, storage):
        command.command()(function)
