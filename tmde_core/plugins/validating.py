"""Validates plugins: pluggy checks each marked function against the hooks, and each descriptor is checked.

Each function is registered separately, in its own manager. A misspelt or wrongly declared hook is recorded as a
problem of its plugin, and the other hooks continue to work.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pluggy

from tmde_core.plugins.records import Entry, describe_error
from tmde_core.records.base import to_json
from tmde_core.records.fields import fields_of
from tmde_core.sdk import hooks
from tmde_core.sdk.context import PluginSettings
from tmde_core.sdk.hooks import HOOKS, OBSERVER, Hook

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""The pattern of descriptor names. Settings, flags and URLs use these names."""

ALL_HOOKS = (*HOOKS, OBSERVER)

CALLED = frozenset({"create", "availability", "questions"})
"""Fields of descriptors that the core calls."""


def find_implementations(entry: Entry, plugin: object) -> list[tuple[str, Callable[..., object]]]:
    """Return the plugin's valid hooks with their functions; record each invalid hook as a problem."""
    marked: dict[str, object] = {}
    unmarked: list[str] = []
    manager = pluggy.PluginManager(hooks.PROJECT)
    try:
        for name in dir(plugin):
            if manager.parse_hookimpl_opts(plugin, name) is not None:
                marked[name] = getattr(plugin, name)
            elif name in ALL_HOOKS:
                unmarked.append(name)
    except BaseException as error:  # reading an attribute may run the plugin's own code
        if isinstance(error, KeyboardInterrupt):
            raise
        entry.fail("register", f"It cannot be inspected: {describe_error(error)}")
        return []
    for name in unmarked:
        entry.fail("register", f"The function {name} is not marked with @hookimpl, so it is not called.")
    if not marked and not unmarked:
        entry.fail("register", f"It implements no hook; the hooks are {', '.join(ALL_HOOKS)}.")
    return [found for name, function in marked.items() if (found := _validate(entry, name, function)) is not None]


def _validate(entry: Entry, name: str, function: object) -> tuple[str, Callable[..., object]] | None:
    """Check one function with pluggy and return its hook and the function; None if the function is invalid."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(SimpleNamespace(**{name: function}), entry.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        entry.fail("register", _describe_invalid(name, error))
        return None
    except Exception as error:  # reading a signature may run the plugin's own code
        entry.fail("register", f"{name} is not valid: {describe_error(error)}")
        return None
    for hook in ALL_HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.hookwrapper or implementation.wrapper:
                entry.fail("register", f"{name} is marked as a wrapper; hooks are called one by one and not wrapped.")
                return None
            if hook == OBSERVER and "event" not in implementation.argnames:
                entry.fail("register", f"{name} does not take `event`, the argument that it is called with.")
                return None
            return hook, implementation.function
    return None  # an optional hook of another version of TMDE


def _describe_invalid(name: str, error: pluggy.PluginValidationError) -> str:
    if "unknown hook" in str(error):
        return f"No hook is called {name}; the hooks are {', '.join(ALL_HOOKS)}."
    if found := re.search(r"Argument\(s\) \{(.*)\} are declared", str(error)):
        wanted = "it is called with `event` and `context`" if name == OBSERVER else "hooks take no arguments"
        return f"{name} asks for the argument {found[1]}; {wanted}."
    return f"{name} is not valid: {describe_error(error)}"


def find_flaw(hook: Hook, descriptor: object) -> str | None:
    """Return why a descriptor cannot be used; None if it can be used.

    msgspec checks types when it decodes data, but not when a plugin creates a struct.
    """
    if not isinstance(descriptor, hook.descriptor):
        return f"{hook.name} returned a {type(descriptor).__name__} where a {hook.descriptor.__name__} belongs."
    name = getattr(descriptor, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return (
            f"{hook.name} offers a {hook.noun} called {str(name)[:60]!r}; a name is 1 to 40 of a–z, 0–9, '-' and '_', "
            "and starts with a letter or digit."
        )
    if name in hook.reserved:
        return f"{hook.name} offers a {hook.noun} called {name!r}, which has a meaning of its own in the settings; rename it."
    if not isinstance(getattr(descriptor, "summary", None), str):
        return f"The {hook.noun} {name!r} has no summary: it is a sentence for people."
    for field in CALLED & set(descriptor.__struct_fields__):
        if not callable(getattr(descriptor, field)):
            return f"The {hook.noun} {name!r} has a {field} that cannot be called."
    if "settings" in descriptor.__struct_fields__:
        return _find_settings_flaw(hook, name, getattr(descriptor, "settings", None))
    return None


def _find_settings_flaw(hook: Hook, name: str, settings: object) -> str | None:
    """Return why a descriptor's settings type cannot be used; None if it can be used."""
    if not (isinstance(settings, type) and issubclass(settings, PluginSettings)):
        return f"The {hook.noun} {name!r} has settings that are no subclass of PluginSettings."
    try:
        to_json(settings())
        fields_of(settings)
    except BaseException as error:  # a plugin's own __post_init__ may run
        if isinstance(error, KeyboardInterrupt):
            raise
        return (
            f"The {hook.noun} {name!r} has settings without a default: {settings.__name__}() raises "
            f"{describe_error(error)}. Give every setting a default."
        )
    return None
