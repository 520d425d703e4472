"""Implement `tmde lora export`, `import` and `ask`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast, get_args
from uuid import UUID

import typer
from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import (
    JsonFlag,
    console,
    error_console,
    format_bytes,
    format_duration,
    plain,
    print_json,
    print_json_line,
)
from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError, TmdeError
from tmde_core.lora.archive.layout import ArchiveFormat
from tmde_core.records.training import Quantization

if TYPE_CHECKING:
    from tmde_core.lora.archive.service import Export
    from tmde_core.records.lora import LoRAAdapter
    from tmde_core.records.training import MergeProgress, MergeResult
    from tmde_core.services import Services

FORMATS: tuple[str, ...] = get_args(ArchiveFormat)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
PIECE = 256 * 1024

AdapterId = Annotated[str, typer.Argument(help="The adapter's id.", metavar="ID")]


def export(
    ctx: typer.Context,
    id: AdapterId,
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "peft",
    quantization: Annotated[
        str,
        typer.Option("--quantization", help=f"Of merged-gguf: {', '.join(QUANTIZATIONS)}. base: as the base model."),
    ] = "base",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; a directory, a file, or - for standard output.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write over a file that exists; and keep a merged model that is too far from what was merged.",
        ),
    ] = False,
) -> None:
    """Export an adapter: an archive in PEFT's layout, one GGUF file for llama.cpp, or merged with its base model.

    merged-gguf writes adapter and base model as one GGUF file, for Ollama, LM Studio and llama.cpp, and NOTES.md beside it.
    The file is compared with base model and adapter first, which takes a minute or more.
    """
    if format_ not in FORMATS:
        raise InvalidInputError(f"--format: {format_[:40]!r} is not one of {', '.join(FORMATS)}.", field="format")
    if quantization not in QUANTIZATIONS:
        raise InvalidInputError(
            f"--quantization: {quantization[:40]!r} is not one of {', '.join(QUANTIZATIONS)}.", field="quantization"
        )
    if format_ == "merged-gguf":
        _export_merged(ctx, id, cast("Quantization", quantization), output, force)
        return

    async def carry(services: Services) -> Path | None:
        made = await services.archives.export(
            await services.ids.adapter(id, named=True), cast("ArchiveFormat", format_)
        )
        if output is not None and str(output) == "-":
            async for chunk in made.chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return None
        target = output or Path()
        target = target / made.filename if target.is_dir() else target
        await _write(made, target, force)
        return target

    target = with_services(ctx, carry)
    if target is not None:
        typer.echo(f"Wrote {target} ({format_bytes(target.stat().st_size)}).")


def _export_merged(ctx: typer.Context, id: str, quantization: Quantization, output: Path | None, force: bool) -> None:
    if output is not None and str(output) == "-":
        raise InvalidInputError("A merged model is written to a file: name one with --output.", field="output")

    async def carry(services: Services) -> tuple[Path, Path, MergeResult]:
        from tmde_core.lora.archive.merged import name_merged

        identity = await services.ids.adapter(id, named=True)
        target = output or Path()
        if target.is_dir():
            target /= name_merged(services.stores.adapters.read_manifest(identity), quantization)
        notes = target.with_name(f"{target.name}.NOTES.md")
        for file in (target, notes):
            if file.exists() and not force:
                raise InvalidInputError(
                    f"{file} exists. Choose another name with --output, or write over it with --force."
                )
        if not target.parent.is_dir():
            raise InvalidInputError(f"There is no directory {target.parent}. Create it, or choose another place.")
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp").absolute()
        try:
            with _merging() as view:
                made = await services.archives.merges.write(
                    identity, unfinished, quantization, force=force, filename=target.name, tell=view
                )
            notes.write_text(made.notes, encoding="utf-8")
            unfinished.replace(target)
        except OSError as error:
            raise InsufficientStorageError(
                f"{target} cannot be written: {error.strerror}. Free some space or choose another place."
            ) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return target, notes, made.result

    target, notes, result = with_services(ctx, carry)
    for note in result.notes:
        typer.echo(plain(note))
    if quality := result.quality:
        typer.echo(
            f"Compared with base model and adapter: {quality.right_merged} of {quality.asked} simple questions right "
            f"(apart {quality.right_apart}), the same likeliest token at {quality.same_token:.0%} of {quality.positions} "
            f"places, mean difference {quality.difference:.3f} (the adapter's effect is {quality.effect:.3f})."
        )
        for flaw in quality.flaws:
            typer.echo(plain(flaw), err=True)
    typer.echo(f"Wrote {target} ({format_bytes(target.stat().st_size)}) and {notes.name}, which says how to use it.")


STEPS = {
    "preparing": "Preparing the base model",
    "merging": "Writing the merged model",
    "checking": "Comparing it with base model and adapter",
}


@contextmanager
def _merging() -> Iterator[Callable[[MergeProgress], None]]:
    """Show the progress of a merge on standard error: a bar on a terminal, else a line for each step."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    err = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task, step = bar.add_task("Reading the adapter", total=1.0), ""

        def view(progress: MergeProgress) -> None:
            nonlocal step
            if progress.step != step and progress.step in STEPS:
                step = progress.step
                bar.reset(task, total=1.0, description=STEPS[step])
                if not err.is_terminal:
                    err.print(f"{STEPS[step]} …", soft_wrap=True)
            bar.update(task, completed=progress.share)

        yield view


async def _write(made: Export, target: Path, force: bool) -> None:
    """Write the whole file or nothing. The file receives its name only when it is complete."""
    if target.exists() and not force:
        raise InvalidInputError(f"{target} exists. Choose another name with --output, or write over it with --force.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with unfinished.open("xb") as file:
                async for chunk in made.chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InsufficientStorageError(
            f"{target} cannot be written: {error.strerror}. Free some space or choose another place; nothing was left behind."
        ) from None


def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A .tar.gz; - for standard input.", metavar="FILE")],
    again: Annotated[
        bool, typer.Option("--again", help="Import a copy without asking if the same adapter is here already.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The base model to which it belongs, if TMDE does not see it."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Import an adapter: an archive of TMDE's, or a plain PEFT archive of any tool.

    The archive is checked first. A failed import leaves nothing behind.
    """
    asks = not again and not json and file != "-" and sys.stdin.isatty()

    def bring(once_more: bool) -> LoRAAdapter:
        return with_services(
            ctx, lambda services: services.archives.import_archive(_pieces(file), again=once_more, base=base)
        )

    try:
        try:
            adapter = bring(not asks)
        except ConflictError as error:
            if error.context.get("twinOf") is None:
                raise
            typer.confirm(f"{plain(error.detail)} Import a copy?", abort=True)
            adapter = bring(True)
    except TmdeError as error:
        reasons = error.context.get("reasons")
        if json or not isinstance(reasons, Sequence) or isinstance(reasons, str) or len(reasons) < 2:
            raise
        err = error_console()
        err.print(f"The archive was refused, for {len(reasons)} reasons; nothing was kept:", style="bold red")
        for reason in reasons:
            err.print(Text(f"  - {plain(str(reason))}"))
        raise typer.Exit(1) from None
    if json:
        print_json(adapter)
    else:
        copy = f" It is a copy of {adapter.twin_of}." if adapter.twin_of else ""
        typer.echo(
            f"The adapter {adapter.id} is here, for the base model {plain(adapter.base_model)}. While the Proposer uses "
            f"this model, `tmde lora activate {adapter.id}` lets the adapter answer.{copy}"
        )


async def _pieces(name: str) -> AsyncIterator[bytes]:
    if name != "-" and Path(name).is_dir():
        raise InvalidInputError(
            f"{name} is a directory. Pack it first, and import the archive: tar czf adapter.tar.gz {name}"
        )
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:  # noqa: ASYNC230 - nothing else runs here
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}.") from None


def ask(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="What to ask.", metavar="QUESTION")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", "-a", help="An adapter's id; may be repeated. Without one: the newest.", metavar="ID"
        ),
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Ask the base model too.")] = True,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each answer, at most.")] = 384,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 is greedy: the weights alone make the difference.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same for all.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Ask the base model and adapters the same question, side by side. Nothing is activated."""

    async def compare(services: Services) -> bool:
        versions: list[UUID | None] = [None] if base else []
        versions += [await services.ids.adapter(one, named=True) for one in adapter or ()]
        if not adapter and (newest := await services.lora.list(valid=True)):
            versions.append(newest[0].id)
        identity = await services.ask.ask(question, versions, max_tokens=max_tokens, temperature=temperature, seed=seed)
        names = await services.lora.find_full_names(one for one in versions if one)
        with _view({str(one) if one else None: _name(one, names) for one in versions}, json) as view:
            async for event in services.ask.events(identity).follow():
                view.show(event.type, event.data)
        return view.failed

    if with_services(ctx, compare):
        raise typer.Exit(1)


Names = dict[str | None, str]
"""The versions that answer, by id (None: the base model), and what people call them."""


def _view(names: Names, json: bool) -> _View:
    if json:
        return _View()
    return _Beside(names) if sys.stdout.isatty() else _Below(names)


class _View:
    """Prints the events as JSON Lines."""

    failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Print one event."""
        self.failed = self.failed or kind == "error"
        print_json_line({"type": kind, **data})


class _Below(_View):
    """Prints each complete answer under the name of its version. This view is for pipes."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Print one answer, failure or error."""
        if kind == "answer":
            typer.echo(f"== {self._names[data['version']]} ({_figures(data)})\n{plain(str(data['text']))}\n")
        elif kind == "failed":
            typer.echo(f"== {self._names[data['version']]}\n{plain(str(data['detail']))}\n", err=True)
        elif kind == "error":
            self.failed = True
            typer.echo(plain(str(data["detail"])), err=True)


class _Beside(_View):
    """Shows a panel for each version, and fills all panels at the same time. This view is for terminals."""

    def __init__(self, names: Names) -> None:
        self._out = console()
        self._names = names
        self._said = {version: Text() for version in names}
        self._titles = dict(names)
        self._live = Live(
            console=self._out, refresh_per_second=12, vertical_overflow="visible", get_renderable=self._drawn
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _drawn(self) -> Columns:
        width = max(24, self._out.width // max(len(self._said), 1) - 1)
        panels = [
            Panel(text or Text("…", style="dim"), title=self._titles[version], title_align="left", width=width)
            for version, text in self._said.items()
        ]
        return Columns(panels, padding=(0, 1))

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Add one event to its panel."""
        if kind == "token":
            self._said[data["version"]].append(plain(str(data["text"])))
        elif kind == "answer":
            self._titles[data["version"]] = f"{self._names[data['version']]} · {_figures(data)}"
        elif kind == "failed":
            self._said[data["version"]] = Text(plain(str(data["detail"])), style="red")
        elif kind == "error":
            self.failed = True
            for text in self._said.values():
                if not text:
                    text.append(plain(str(data["detail"])), style="red")


def _name(version: UUID | None, names: Mapping[UUID, str]) -> str:
    return f"adapter {names[version]}" if version else "base model"


def _figures(data: dict[str, Any]) -> str:
    return f"{data['tokens']} tokens, {format_duration(data['ms'] / 1000)}"


def register(command: typer.Typer) -> None:
    """Add the commands to `tmde lora`."""
    command.command()(export)
    command.command("import")(import_)
    command.command()(ask)
