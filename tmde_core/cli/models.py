"""Define the commands of `tmde models`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import settings_of, with_reading, with_services
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import (
    JsonFlag,
    confirm_deletion,
    format_bytes,
    format_duration,
    plain,
    print_fields,
    print_json,
    print_table,
)
from tmde_core.cli.models_pull import pull_command, say_how_to_choose

if TYPE_CHECKING:
    from tmde_core.models.service import ModelTest
    from tmde_core.records.models import BaseModel
    from tmde_core.records.suggestions import Best, Suggestion
    from tmde_core.runtimes import RuntimeReport
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    invoke_without_command=True,
    help="Base models: list, fetch, add, try and remove them.",
)

NameArgument = Annotated[
    str, typer.Argument(help="The base model, by its name, an alias, or the name of a form of it.")
]


@command.callback()
def main(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Base models: list, fetch, add, try and remove them."""  # noqa: D401 - the line in the list of commands
    if ctx.invoked_subcommand is None:
        _list(ctx, json=json)


@command.command("list")
def list_(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the base models and their forms: which runtimes serve them, and whether they can be trained.

    A runtime whose server does not respond is left out; a remark says so.
    """
    _list(ctx, json=json)


def _list(ctx: typer.Context, *, json: bool) -> None:
    models, reports = _read(ctx)
    if json:
        print_json(models)
        return
    rows = [
        (
            model.name,
            _count(model.parameters),
            model.license or None,
            ", ".join(f"{one.runtime}{f' {one.quantization}' if one.quantization else ''}" for one in model.served)
            or None,
            model.trainable.kind if model.trainable else None,
            ", ".join(model.roles) or None,
        )
        for model in models
    ]
    print_table(
        ("model", "weights", "licence", "served by", "trained from", "used by"),
        rows,
        empty="There is no model. `tmde models suggest` says what fits this machine, and `tmde models pull` fetches it.",
        right=("weights",),
    )
    for report in reports:
        if not report.availability.ok:
            typer.echo(f"{report.name}: {report.availability.reason}", err=True)
        elif report.status.state == "paused":
            typer.echo(f"{report.name}: {report.status.detail}", err=True)
    if any(model.embedded and model.roles for model in models):
        typer.echo(
            "The embedded model answers. It is a toy, so that everything works at once. `tmde models suggest` says which "
            "models fit this machine, and `tmde models use` chooses one.",
            err=True,
        )


def _read(ctx: typer.Context) -> tuple[Sequence[BaseModel], Sequence[RuntimeReport]]:
    import asyncio

    settings = settings_of(ctx)
    log_to_file(settings)

    async def listed() -> tuple[Sequence[BaseModel], Sequence[RuntimeReport]]:
        from tmde_core.models.service import ModelService
        from tmde_core.plugins import Plugins
        from tmde_core.plugins.defaults import resolve_roles
        from tmde_core.runtimes import Runtimes

        plugins = Plugins.load()
        runtimes = Runtimes(plugins, settings)
        try:
            service = ModelService(lambda: runtimes, lambda: resolve_roles(settings, plugins))
            return await asyncio.gather(service.list(quick=True), runtimes.reports())
        finally:
            await runtimes.stop()

    return asyncio.run(listed())


@command.command()
def show(ctx: typer.Context, name: NameArgument, json: JsonFlag = False) -> None:
    """Show one base model: licence, sizes, every form with its hash, and whether it can be trained."""
    model = with_reading(ctx, lambda services: services.models.find(name))
    if json:
        print_json(model)
        return
    trainable = model.trainable
    print_fields(
        (
            ("name", model.name),
            ("licence", model.license or "unknown"),
            ("weights", _count(model.parameters) or "unknown"),
            ("context", f"{model.context_length:,} tokens" if model.context_length else "unknown"),
            ("architecture", model.architecture or "unknown"),
            ("from", f"{model.source} at {model.revision[:12]}" if model.revision else model.source or "unknown"),
            ("used by", ", ".join(model.roles) or "no role"),
            ("folder", model.folder or "none"),
            ("also called", ", ".join(model.aliases) or "nothing else"),
            *((f"served by {form.runtime}", _form(form.model, form.quantization, form.size_bytes, form.sha256)) for form in model.served),
            (
                "trained from",
                _form(trainable.path, trainable.kind, trainable.size_bytes, trainable.sha256)
                if trainable
                else model.why_not_trainable,
            ),
        )
    )  # fmt: skip


@command.command()
def suggest(
    ctx: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Show those that do not fit as well, with the reason.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show which models fit this machine, for answering and for training. Nothing is fetched.

    Sizes, memory and speeds are computed, so they are about right.
    """
    found = with_reading(ctx, lambda services: services.models.suggest())
    if json:
        print_json(found)
        return
    shown = [one for one in found.items if all_ or one.fits]
    print_table(
        ("model", "licence", "download", "answering", "training"),
        [
            (
                one.name,
                f"{one.license} (terms)" if one.gated else one.license,
                "here" if one.answers_here else format_bytes(one.downloads[0].size_bytes),
                _answering(one),
                _training(one),
            )
            for one in shown
        ],
        empty="None of the known models fits this machine. `tmde models suggest --all` says why.",
        right=("download",),
    )
    if all_:
        for one in shown:
            reasons = [fit.sentence for fit in (one.answering, one.training) if fit.verdict == "no"]
            if reasons:
                typer.echo(f"{one.name}: {' '.join(reasons)}", err=True)
    elif len(shown) < len(found.items):
        typer.echo(f"{len(found.items) - len(shown)} more do not fit; --all shows them with the reason.", err=True)
    if any(one.gated for one in shown):
        typer.echo(
            "(terms): the publisher wants its licence to be accepted before the weights for training can be fetched. The "
            "GGUF file is open.",
            err=True,
        )
    for remark in found.remarks:
        typer.echo(remark, err=True)
    typer.echo(_recommend("answer", found.best_for_answering))
    typer.echo(_recommend("train", found.best_for_training))


def _answering(one: Suggestion) -> str:
    fit = one.answering
    if fit.verdict == "no":
        return "no"
    where = "card" if fit.place == "card" else "memory"
    speed = f"{fit.tokens_per_second:.0f}{'+' if fit.place == 'card' else ''} tokens/s"
    return f"{'only just ' if fit.verdict == 'tight' else ''}{where}, {fit.quantization}, {speed}"


def _training(one: Suggestion) -> str:
    fit = one.training
    if fit.verdict == "card":
        return f"card, 4-bit, {format_bytes(fit.needed_bytes)}"
    if fit.verdict == "cpu":
        return f"processor, {format_duration(fit.seconds)}"
    return "no"


def _recommend(purpose: str, best: Best | None) -> str:
    if best is None:
        return f"To {purpose}: none of these fits; the embedded model that TMDE brings does."
    todo = best.command or "it is here already"
    return f"To {purpose}: {best.name}. {best.reason}\n    {todo}"


command.command("pull")(pull_command)


@command.command()
def add(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|RUNTIME:MODEL",
            help="A GGUF file, a directory of safetensors, or a model of a server, such as ollama:qwen3:4b.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The base model to which it belongs; a new one if there is none.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make a model that you have already a form of a base model. Nothing is copied."""
    model = with_services(ctx, lambda services: services.models.add(target, name))
    if json:
        print_json(model)
        return
    typer.echo(f"{plain(model.name)}: {plain(_forms(model))}.")
    if model.served and not model.roles and not any(form.runtime != model.served[0].runtime for form in model.served):
        typer.echo(plain(say_how_to_choose(model.name)))
    if model.why_not_trainable:
        typer.echo(plain(model.why_not_trainable), err=True)


@command.command()
def remove(
    ctx: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a base model and the files that TMDE fetched for it. Files that were only added stay where they are."""

    async def removed(services: Services) -> int:
        model = services.models.require_removable(await services.models.find(name))
        confirm_deletion(yes, f"Delete {model.name} and its {format_bytes(model.size_bytes)}?")
        return await services.models.remove(model.name)

    freed = with_services(ctx, removed)
    typer.echo(f"Removed; {format_bytes(freed)} are free again.")


@command.command()
def use(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The base model, or a form of it as RUNTIME:MODEL.")],
    role: Annotated[
        list[str] | None,
        typer.Option("--role", "-r", help="A role that it answers for; may be repeated. Default: all."),
    ] = None,
) -> None:
    """Let a model answer for the roles of the debate. The choice takes effect with the next debate."""
    from tmde_core.plugins.defaults import ROLES

    roles = tuple(dict.fromkeys(role or ROLES))
    if unknown := [one for one in roles if one not in ROLES]:
        raise typer.BadParameter(f"there is no role {unknown[0]!r}; there are {', '.join(ROLES)}.", param_hint="--role")

    async def chosen(services: Services) -> tuple[str, str]:
        runtime, model = await services.models.find_form(name)
        await services.live.change({"roles": {one: {"runtime": runtime, "model": model} for one in roles}})
        return runtime, model

    runtime, model = with_services(ctx, chosen)
    who = "all roles" if set(roles) == set(ROLES) else f"the {' and the '.join(one.capitalize() for one in roles)}"
    typer.echo(plain(f"{model} on {runtime} answers for {who} from the next debate on."))


@command.command("test")
def try_(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="The base model, or a form of it as RUNTIME:MODEL. Default: the Proposer's.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Ask a model one short question, and show its answer and its speed."""

    async def tried(services: Services) -> ModelTest:
        runtime, model = await services.models.find_form(name)
        return await services.models.try_model(runtime, model)

    found = with_services(ctx, tried)
    if json:
        print_json(found)
        return
    speed = f"{found.tokens_per_second:g} tokens a second" if found.tokens_per_second else "too short to tell the speed"
    loading = "" if found.was_loaded else ", loading included"
    print_fields(
        (
            ("model", f"{found.model} on {found.runtime}"),
            ("question", found.question),
            ("answer", found.answer or "(nothing)"),
            ("first token after", f"{found.seconds_to_first_token:.2f} s{loading}"),
            ("speed", f"{speed} ({found.tokens} tokens)"),
        )
    )


def _forms(model: BaseModel) -> str:
    from tmde_core.models.grouping import describe_form

    return describe_form(model)


def _count(parameters: int | None) -> str | None:
    if parameters is None:
        return None
    if parameters >= 950_000_000:
        return f"{parameters / 1e9:.2g}B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 950_000 else f"{parameters / 1e3:.0f}k"


def _form(what: str, kind: str, size: int | None, sha256: str | None) -> str:
    parts = [kind, format_bytes(size) if size else "", f"SHA-256 {sha256[:12]}…" if sha256 else ""]
    told = ", ".join(filter(None, parts))
    return f"{what} ({told})" if told else what
