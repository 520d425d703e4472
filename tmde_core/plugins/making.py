"""Prepares the creation of described objects: each gets its context with its own validated settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import structlog

from tmde_core.errors import BrokenFileError, InvalidInputError, PluginUnavailableError, TmdeError
from tmde_core.plugins.catalog import Plugins
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import to_invalid_input
from tmde_core.sdk.context import MakingDescriptor, PluginContext, PluginSettings
from tmde_core.sdk.hooks import HOOKS, Hook
from tmde_core.settings import Settings

S = TypeVar("S", bound=PluginSettings)


def context_for(descriptor: MakingDescriptor, settings: Settings) -> PluginContext[Any]:
    """Return the context to pass to `create`.

    Raises:
        InvalidInputError: the settings table of the descriptor does not match its type. The detail names the setting.
    """
    return PluginContext(
        data_dir=settings.data_path,
        settings=read_table(descriptor, settings),
        log=structlog.get_logger("tmde.plugin").bind(plugin=descriptor.name),
    )


def create(descriptor: MakingDescriptor, settings: Settings) -> Any:
    """Create the object that a descriptor describes, with its own settings.

    Raises:
        InvalidInputError: the settings table of the descriptor does not match its type. The detail names the setting.
        PluginUnavailableError: the plugin's `create` raised an exception or returned nothing.
        TmdeError: the plugin's `create` raised it on purpose.
    """
    maker: Any = descriptor  # every kind has a `create` of its own type
    context = context_for(descriptor, settings)
    hook = _hook_of(descriptor)
    subject = f"The {hook.noun} {descriptor.name!r} cannot be created"
    try:
        made = maker.create(context)
    except TmdeError:
        raise
    except (Exception, SystemExit) as error:  # a plugin's defect must not take the others down
        sentence = f"{subject}: its plugin raised {describe_error(error)}. Update or uninstall the plugin."
        raise PluginUnavailableError(sentence, kind=hook.noun, name=descriptor.name) from error
    if made is None:
        sentence = f"{subject}: its plugin returned nothing. Update or uninstall the plugin."
        raise PluginUnavailableError(sentence, kind=hook.noun, name=descriptor.name)
    return made


def read_table(descriptor: MakingDescriptor, settings: Settings) -> PluginSettings:
    """Return the validated settings of one descriptor.

    Raises:
        InvalidInputError: a setting is unknown, has the wrong type or is out of range. The detail names the setting.
    """
    table = table_of(descriptor)
    values = getattr(settings, table).get(descriptor.name, {})
    return read_settings(values, descriptor.settings, f"{table}.{descriptor.name}")


def read_settings(values: Mapping[str, Any], as_type: type[S], table: str) -> S:
    """Return a settings table as its type.

    Args:
        values: the table, as in `tmde.toml`.
        as_type: the type of the settings.
        table: the table's name, for error messages.

    Raises:
        InvalidInputError: a setting is unknown, has the wrong type or is out of range. The detail names the setting.
    """
    try:
        return msgspec.convert(dict(values), as_type)
    except msgspec.ValidationError as error:
        raise _explain(to_invalid_input(error, as_type), as_type, table) from None
    except (Exception, SystemExit) as error:  # a plugin's own `__post_init__` runs here
        sentence = (
            f"In the settings, {table}: they cannot be checked: {describe_error(error)}. Correct them and start again."
        )
        raise BrokenFileError(sentence, field=table) from error


def _explain(problem: InvalidInputError, as_type: type[PluginSettings], table: str) -> InvalidInputError:
    """Add the setting's place in the file to an error."""
    known = as_type.__struct_fields__
    field, sentence = str(problem.context.get("field") or ""), problem.detail
    head, _, rest = sentence.partition(": ")
    if head in (field, *known):  # `known`: an error of `__post_init__` that begins with a setting's name
        field, sentence = head, rest
    if field and field.partition(".")[0] not in known:
        sentence = f"there is no such setting; there are {', '.join(known) or 'none'}."
    path = ".".join(part for part in (table, field) if part)
    return BrokenFileError(f"In the settings, {path}: {sentence} Correct it and start again.", field=path)


def check_tables(plugins: Plugins, wanted: Settings, stored: Settings) -> None:
    """Check the plugins' tables that differ from the stored ones; ignore tables that belong to no plugin.

    Raises:
        InvalidInputError: the plugin does not know a setting, or refuses its value.
    """
    for hook in HOOKS.values():
        if not hook.table or getattr(wanted, hook.table) == getattr(stored, hook.table):
            continue
        for descriptor in plugins.shelf(hook.descriptor):
            if isinstance(descriptor, MakingDescriptor):
                read_table(descriptor, wanted)


def table_of(descriptor: MakingDescriptor) -> str:
    """Return the name of the table that holds the settings of this kind of descriptor."""
    return _hook_of(descriptor).table


def _hook_of(descriptor: MakingDescriptor) -> Hook:
    return next(hook for hook in HOOKS.values() if type(descriptor) is hook.descriptor)
