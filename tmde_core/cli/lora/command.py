"""Define the commands of `tmde lora`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import after, with_reading, with_services
from tmde_core.cli.kit.output import JsonFlag, format_bytes, plain, print_fields, print_json, print_table
from tmde_core.cli.lora import archive as lora_archive
from tmde_core.cli.lora import versions as lora_versions
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import to_utc
from tmde_core.records.lora import LoRAAdapter

if TYPE_CHECKING:
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Adapters: list, activate, roll back, compare, carry away. One answers, or the base model.",
)

AdapterId = Annotated[str, typer.Argument(help="The adapter's id, its first digits, or its name.", metavar="ID")]


@command.command("list")
def list_(
    ctx: typer.Context,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    valid: Annotated[
        bool | None, typer.Option("--valid/--invalid", help="Only sound ones, or only damaged ones.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List adapters, newest first."""

    async def listed(services: Services) -> tuple[Sequence[LoRAAdapter], str | None]:
        reference = services.lora.get_active_ref()
        if reference is None:
            return await services.lora.list(tag=tag, valid=valid), None
        _ = services.runtimes  # without runtimes, nothing is known of the Proposer's model
        return await services.lora.list(tag=tag, valid=valid), services.workspace.find_why_idle(reference)

    adapters, idle = with_reading(ctx, listed)
    if json:
        print_json(adapters)
        return
    rows = [
        (
            str(adapter.id),
            adapter.created_at,
            _state(adapter, idle),
            adapter.name,
            adapter.gate,
            score_words(adapter),
            adapter.traces_used,
            format_bytes(adapter.size_bytes),
            adapter.base_model,
            _marks(adapter),
        )
        for adapter in adapters
    ]
    print_table(
        ("id", "created", "state", "name", "gate", "score", "traces", "size", "base model", "tags"),
        rows,
        empty="There are no adapters. `tmde finetune start` trains one.",
        right=("traces", "size"),
    )
    if idle is not None and any(adapter.is_active and adapter.is_valid for adapter in adapters):
        typer.echo(f"The active adapter does not answer. {plain(idle)}", err=True)


@command.command()
def show(ctx: typer.Context, id: AdapterId, json: JsonFlag = False) -> None:
    """Show one adapter and its origin."""
    adapter = with_services(
        ctx, lambda services: after(services.ids.adapter(id, named=True), services.lora.get_details)
    )
    if json:
        print_json(adapter)
    else:
        _print(adapter)
        print_fields(lora_versions.details_fields(adapter.lineage, adapter.history))


@command.command()
def active(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show the active adapter."""

    async def looked_up(services: Services) -> tuple[LoRAAdapter | None, str | None]:
        reference = services.lora.get_active_ref()
        if reference is None:
            return None, None
        _ = services.runtimes  # without runtimes, nothing is known of the Proposer's model
        adapter = await services.lora.get_active()
        return adapter, services.workspace.find_why_idle(reference)

    adapter, idle = with_reading(ctx, looked_up)
    if json:
        print_json(adapter)
    elif adapter is None:
        typer.echo("No adapter is active: the base model answers.")
    else:
        if not adapter.is_valid:
            typer.echo(f"The base model answers, because the active adapter is damaged: {adapter.invalid_reason}")
        elif idle is not None:
            typer.echo(f"The adapter is active, but does not answer. {plain(idle)}")
        _print(adapter)


@command.command()
def activate(
    ctx: typer.Context,
    id: AdapterId,
    force: Annotated[bool, typer.Option("--force", help="Although the gate holds it back.")] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The base model to which it belongs, if TMDE does not see it."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Activate an adapter for later debates. The adapter is tried first; if the trial fails, nothing changes."""
    adapter = with_services(
        ctx,
        lambda services: after(
            services.ids.adapter(id, named=True),
            lambda one: services.lora.activate(one, by="user", force=force, base=base),
        ),
    )
    _say_active(adapter, json)


@command.command()
def rollback(
    ctx: typer.Context,
    id: Annotated[
        str | None, typer.Argument(help="To this adapter; without it, to the one before.", metavar="[ID]")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Roll back to the previously active version."""

    async def back(services: Services) -> LoRAAdapter | None:
        return await services.lora.rollback(await services.ids.adapter(id, named=True) if id else None)

    _say_active(with_services(ctx, back), json)


@command.command()
def deactivate(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Deactivate the active adapter. The base model answers from the next debate on."""
    with_services(ctx, lambda services: services.lora.deactivate(by="user"))
    _say_active(None, json)


@command.command()
def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    at: Annotated[
        str | None, typer.Option(help="Only say what answered then, such as 2026-11-24T08:30; without a zone, UTC.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List the events of adapters, newest first, or show what was active at a given time."""
    if at is not None:
        _live_at(ctx, at, json)
        return
    events = with_services(ctx, lambda services: services.lora.list_events(limit, offset))
    if json:
        print_json(events)
        return
    rows = [
        (
            event.timestamp,
            event.operation,
            "unsettled" if event.success is None else "done" if event.success else "failed",
            str(event.adapter_id or "base model"),
            event.triggered_by,
            event.error_message or event.note or "",
        )
        for event in events
    ]
    print_table(
        ("when", "what", "outcome", "adapter", "by", "detail"), rows, empty="Nothing was ever done with an adapter."
    )


def score_words(adapter: LoRAAdapter) -> str:
    """Return the benchmark's score of an adapter, or how far its measurement is; empty if it was never measured."""
    found = adapter.benchmark
    if found is None:
        return ""
    if found.status == "running":
        return f"being measured, {found.completed_questions} of {found.question_count}"
    return "no verdict" if found.tmde_score is None else f"{found.tmde_score:.1f}"


def _live_at(ctx: typer.Context, at: str, json: bool) -> None:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise InvalidInputError(f"--at: {at[:40]!r} is no time. Write it as 2026-11-24T08:30.", field="at") from None
    found = with_services(ctx, lambda services: services.lora.find_active_at(to_utc(moment, "at")))
    if json:
        print_json(found)
        return
    who = f"adapter {found.adapter_id}" if found.adapter_id else "the base model"
    print_fields((("at", found.at), ("answered", who), ("since", found.since), ("until", found.until)))


def _state(adapter: LoRAAdapter, idle: str | None) -> str:
    if adapter.is_active:
        if adapter.is_answering and idle is None:
            return "active"
        return f"active, but {'not served' if adapter.is_valid else 'damaged'}: the base model answers"
    return "" if adapter.is_valid else "damaged"


def _marks(adapter: LoRAAdapter) -> str:
    """Return the tags, and of which adapter this one is a copy."""
    copy = (f"(copy of {str(adapter.twin_of)[:8]})",) if adapter.twin_of else ()
    return ", ".join((*adapter.tags, *copy))


def _say_active(adapter: LoRAAdapter | None, json: bool) -> None:
    if json:
        print_json(adapter)
    elif adapter is None:
        typer.echo("The base model answers from the next debate on.")
    else:
        typer.echo(f"The adapter {adapter.id} answers from the next debate on.")


def _print(adapter: LoRAAdapter) -> None:
    metrics = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in adapter.metrics.items()
        if value is not None
    )
    print_fields(
        (
            ("id", str(adapter.id)),
            ("created", adapter.created_at),
            ("base model", adapter.base_model),
            ("active", adapter.is_active),
            ("answers", adapter.is_answering),
            ("copy of", str(adapter.twin_of) if adapter.twin_of else None),
            ("gate", adapter.gate),
            ("valid", adapter.is_valid),
            ("because", adapter.invalid_reason),
            ("traces", adapter.traces_used),
            ("size", format_bytes(adapter.size_bytes)),
            ("tags", ", ".join(adapter.tags)),
            ("metrics", metrics),
            ("sha256", adapter.sha256),
            ("path", adapter.path),
        )
    )


lora_versions.register(command)
lora_archive.register(command)
