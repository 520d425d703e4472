"""Define the `tmde` program: a table of commands that are loaded on demand, and the one place that ends the process.

Every command's module has the attribute `command`, a function or a `typer.Typer`. An error that TMDE raises on purpose
becomes one sentence on stderr. An unexpected error is written to a log file, and the message names the file.

The exit code says whose turn it is:

- 0: the command did what it was asked to do.
- 1: the command is right, but it failed or the state of things does not allow it.
- 2: the command line is wrong: an unknown word, or a value or a given file that no state of things makes right.
- 130: Ctrl-C ended the command.
"""

# ruff: noqa: ARG001, ARG002 - typer hands over contexts and eager flags that not everyone needs

from __future__ import annotations

import importlib
import inspect
import operator
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command as click_command
from typer.main import get_group

from tmde_core.cli.kit.invocation import Invocation
from tmde_core.entry_points import PluginCommand, find_commands
from tmde_core.errors import (
    BrokenFileError,
    FileMissingError,
    InvalidInputError,
    PluginUnavailableError,
    TmdeError,
    TooLargeError,
)

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

DATA_DIR_HELP = "Where TMDE keeps its data; else TMDE_DATA_DIR, else the platform's place."


class Entry(NamedTuple):
    """A command that is not loaded yet."""

    module: str
    help: str


COMMANDS: dict[str, Entry] = {
    "serve": Entry("tmde_core.cli.serve", "Start the server: pages and API on one port."),
    "debate": Entry("tmde_core.cli.debate.command", "Ask a question and watch two models argue about it."),
    "loop": Entry("tmde_core.cli.loop", "Debate, train on what scored, ask again, compare."),
    "traces": Entry("tmde_core.cli.traces", "Past debates: list, show, rate, withdraw, import, export."),
    "finetune": Entry("tmde_core.cli.finetune.command", "Train adapters on good traces."),
    "worker": Entry("tmde_core.cli.finetune.worker", "Train what the server enqueues, in a process of its own."),
    "lora": Entry("tmde_core.cli.lora.command", "Adapters: list, activate, roll back."),
    "bench": Entry("tmde_core.cli.bench.command", "Measure answers, and tell truth from noise."),
    "notifications": Entry("tmde_core.cli.notifications", "What happened that you should know."),
    "templates": Entry("tmde_core.cli.templates", "Reasoning templates: list, show, search."),
    "models": Entry("tmde_core.cli.models", "Base models: list, fetch, add, try and remove them."),
    "backends": Entry("tmde_core.cli.backends.command", "What trains: list, install, examine, remove."),
    "plugins": Entry("tmde_core.cli.plugins.command", "What is plugged in, and what is wrong with it."),
    "doctor": Entry("tmde_core.cli.doctor.command", "Check this machine and this installation."),
}
"""Maps a name to the module of the command and its line in `tmde --help`. A test compares the lines with the commands'
own help."""


class LazyGroup(TyperGroup):
    """A group that imports commands only when they are called. Its help comes from `COMMANDS` and package metadata."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return TMDE's own commands in the order in which a new user needs them, then the commands of plugins."""
        return [*COMMANDS, *(command.name for command in _plugin_commands())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command and return it, or return None for an unknown name."""
        if (entry := COMMANDS.get(cmd_name)) is not None:
            return _wrap(cmd_name, importlib.import_module(entry.module).command)
        added = next((one for one in _plugin_commands() if one.name == cmd_name), None)
        return None if added is None else _wrap_added(added)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])
        if added := _plugin_commands():
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(one.name, f"{one.summary} ({one.distribution})") for one in added])


def _plugin_commands() -> list[PluginCommand]:
    """Return the usable commands of plugins."""
    return [command for command in find_commands() if not command.problem]


def _import_added(added: PluginCommand) -> Any:
    """Import a plugin's command.

    Raises:
        PluginUnavailableError: the command cannot be imported, or is not a command.
    """
    module, _, attribute = added.target.partition(":")
    try:
        found = operator.attrgetter(attribute or "command")(importlib.import_module(module))
    except BaseException as error:  # a plugin's module may even call sys.exit()
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _refuse(added, f"cannot be loaded: {_describe(error)}. Update or uninstall that package") from error
    if not callable(found):
        raise _refuse(added, "is neither a function nor a typer.Typer")
    if inspect.iscoroutinefunction(found):
        raise _refuse(added, "is asynchronous; it must be a plain function. Update or uninstall that package")
    return found


def _wrap_added(added: PluginCommand) -> Any:
    """Import a plugin's command and make it part of `tmde`.

    Raises:
        PluginUnavailableError: the command cannot be imported, or typer cannot take it.
    """
    found = _import_added(added)
    try:
        loaded = _wrap(added.name, found)
    except (Exception, SystemExit) as error:  # typer refuses a plugin's function with exceptions of many types
        raise _refuse(
            added, f"cannot be used as a command: {_describe(error)}. Update or uninstall that package"
        ) from error
    for leaf in _leaves(loaded):
        if inspect.iscoroutinefunction(inspect.unwrap(leaf.callback) if leaf.callback else None):
            path = added.name if leaf is loaded else f"{added.name} {leaf.name}"
            raise _refuse(
                added,
                f"is asynchronous in `tmde {path}`; it must be a plain function. Update or uninstall that package",
            )
    return loaded


def _refuse(added: PluginCommand, problem: str) -> PluginUnavailableError:
    return PluginUnavailableError(
        f"The command {added.name!r} of the package {added.distribution!r} {problem}.", name=added.name
    )


def _describe(error: BaseException) -> str:
    from tmde_core.plugins.records import describe_error

    return describe_error(error)


def _wrap(name: str, found: Any) -> Any:
    """Make a loaded command part of `tmde`, and add `--data-dir` to each of its leaf commands."""
    if not isinstance(found, typer.Typer):
        wrapper = _typer()
        wrapper.command(name)(found)
        found = wrapper
    loaded = click_command(found)
    loaded.name = name
    for leaf in _leaves(loaded):
        leaf.params.append(_data_dir_option())
    return loaded


def _leaves(command: Any) -> Iterator[Any]:
    children = getattr(command, "commands", None)
    if not children or command.invoke_without_command:  # a group with `invoke_without_command` does something by itself
        yield command
    for child in (children or {}).values():
        yield from _leaves(child)


def _typer() -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def _data_dir_option() -> Any:
    """Return the option `--data-dir` for a leaf command, so that the option may also follow the command."""

    def keep(
        ctx: typer.Context, data_dir: Annotated[Path | None, typer.Option("--data-dir", help=DATA_DIR_HELP)] = None
    ) -> None:
        if data_dir is not None:
            ctx.ensure_object(Invocation).data_dir = data_dir

    carrier = _typer()
    carrier.command()(keep)
    option = next(parameter for parameter in click_command(carrier).params if parameter.name == "data_dir")

    def put(ctx: Any, _parameter: object, value: Path | None) -> None:
        keep(ctx, value)

    option.callback = put
    option.expose_value = False
    return option


def _version(wanted: bool) -> None:
    if wanted:
        from tmde_core import __version__

        typer.echo(f"tmde {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup, rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def root(
    ctx: typer.Context,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help=DATA_DIR_HELP)] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """TMDE, This Mind Does Not Exist: a reasoning engine on your own machine that learns from its own debates."""
    ctx.ensure_object(Invocation).data_dir = data_dir


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and end the process with `SystemExit`."""
    invocation = Invocation()
    group = get_group(app)
    try:
        group.main(args=None if arguments is None else list(arguments), prog_name="tmde", obj=invocation)
    except TmdeError as error:
        _say(error.detail)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # the last resort: a traceback belongs in a log file, not on the terminal
        from tmde_core.cli.kit.crash import record

        known = _known(error)
        _say(known.detail if known else record(error, invocation))
        sys.exit(exit_code(known) if known else FAILED)


def exit_code(error: TmdeError) -> int:
    """Return the exit code of a command that failed with this error."""
    given = isinstance(error, InvalidInputError | FileMissingError | TooLargeError) and not isinstance(
        error, BrokenFileError
    )
    return WRONG_USAGE if given else FAILED


def _known(error: BaseException) -> TmdeError | None:
    """Return the error if TMDE raised it on purpose. In an exception group, only the first error counts."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, TmdeError) else None


def _say(sentence: str) -> None:
    typer.echo(f"Error: {' '.join(sentence.split())}", err=True)
