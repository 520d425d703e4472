"""Print results: tables and colour for people, JSON or tab-separated lines for programs.

On a terminal, lists are tables that fit the terminal. In a pipe, each row is one line with the cells separated by tabs,
and nothing is cut off. rich respects `NO_COLOR` and `TERM=dumb`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from tmde_core.errors import InvalidInputError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SENTENCES = frozenset({"detail", "problems", "error", "description"})
"""Columns of sentences. Long sentences are wrapped; other columns are cut off."""
WIDEST_CELL = 44
"""The widest cell in characters. An id has 36, a model's file name about 40."""
LAST_CELL = 24
"""The minimum width of the last column, in characters."""

Cell = str | int | float | datetime | bool | None


def console() -> Console:
    """Return a console for stdout. In a pipe, the console never wraps lines."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """Return a console for stderr, for progress and remarks that are not part of the result."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def confirm_deletion(yes: bool, question: str) -> None:
    """Ask for confirmation on a terminal. Without a terminal nobody can answer, so --yes is required.

    Raises:
        InvalidInputError: there is no terminal, and `yes` is False.
        typer.Exit: the person said no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError("Nothing was deleted: say --yes where nobody can be asked.", field="yes")
    if not typer.confirm(question):
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a record or plain data as indented JSON, the same on a terminal and in a pipe."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_line(value: Any) -> None:
    """Print one line of JSON Lines and flush it immediately."""
    typer.echo(msgspec.json.encode(value).decode())


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str, right: Sequence[str] = ()
) -> None:
    """Print a list. An empty list prints `empty`, a hint how to fill the list; `right` names the columns of figures."""
    if not sys.stdout.isatty():
        for row in (columns, *rows) if rows else ():
            typer.echo("\t".join(" ".join(cell(value).split()) for value in row))
        if not rows:
            typer.echo(empty, err=True)
        return
    if not rows:
        typer.echo(empty)
        return
    shown = [[" ".join(cell(value).split()) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # Figures, ids and names keep their width, because people read or copy them whole. The last column gets the
        # remaining width: a sentence is wrapped, a question is cut off.
        last = number == len(columns) - 1 and column not in right
        widest = max(len(column), *(len(row[number]) for row in shown))
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=not (last and column in SENTENCES),
            overflow="fold" if last and column in SENTENCES else "ellipsis",
            min_width=min(widest, LAST_CELL if last else WIDEST_CELL),
        )
    for row in shown:
        table.add_row(*map(Text, row))
    out = console()
    needed = sum(column.min_width or 0 for column in table.columns) + 2 * (len(columns) - 1)
    # On a terminal too narrow for the table, lines are wrapped, because cells that are cut off are worse. (`print`
    # itself takes no width beyond the console's.)
    out.size = ConsoleDimensions(max(out.width, needed), out.height)
    out.print(table, crop=False, no_wrap=False)


def print_fields(fields: Sequence[tuple[str, Cell]]) -> None:
    """Print one record: a name and a value on each line, without empty values."""
    shown = [(name, cell(value)) for name, value in fields if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    out = console()
    for name, value in shown:
        out.print(Text.assemble((name.ljust(width), "bold"), "  ", value))


def cell(value: Cell) -> str:
    """Format a value for people: times in UTC to the second, figures with four digits, None as a dash."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        case float():
            return f"{value:.4g}"
        case _:
            return plain(str(value))


def plain(text: str) -> str:
    """Remove control characters other than newline and tab from a text, because they could steer a terminal."""
    return _CONTROL.sub("", text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def format_bytes(count: int | None) -> str:
    """Format bytes in the unit that keeps the figure short (decimal units, as disks are sold)."""
    if count is None:
        return "-"
    figure = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if figure < 1000:
            return f"{figure:.0f} {unit}" if unit in {"B", "kB"} else f"{figure:.1f} {unit}"
        figure /= 1000
    return f"{figure:.1f} TB"


def format_duration(seconds: float | None) -> str:
    """Format a duration, such as `850 ms`, `12.3 s`, `4 min 05 s` or `2 h 10 min`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
