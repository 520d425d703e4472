"""Find settings that can be read but not used: schedules, the webhook, and what concerns plugins."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from tmde_core.errors import InvalidInputError
from tmde_core.notifications.service import checked_webhook
from tmde_core.plugins import Plugins
from tmde_core.plugins.making import read_table
from tmde_core.schedule.service import read_schedules
from tmde_core.sdk.context import MakingDescriptor
from tmde_core.sdk.hooks import AUTO, HOOKS
from tmde_core.settings import Settings


def find_wrong_settings(settings: Settings, plugins: Plugins) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting that cannot be used, and a sentence that says why."""
    for name, problem in read_schedules(settings.schedule)[1].items():
        yield f"schedule.{name}", f"{problem} Until then this schedule is off."
    try:
        checked_webhook(settings.notify.webhook_url)
    except InvalidInputError as error:
        yield "notify.webhook_url", error.detail
    yield from _plugin_tables(settings, plugins)
    yield from _chosen_plugins(settings, plugins)


def _plugin_tables(settings: Settings, plugins: Plugins) -> Iterator[tuple[str, str]]:
    for hook in HOOKS.values():
        if not hook.table:
            continue
        shelf = plugins.shelf(hook.descriptor)
        for name in getattr(settings, hook.table):
            setting = f"{hook.table}.{name}"
            if name not in shelf:
                yield setting, f"[{setting}] has no effect: {_describe_unknown(hook.noun, name, shelf.names())}"
                continue
            descriptor = shelf.get(name)
            if not isinstance(descriptor, MakingDescriptor):
                continue
            try:
                read_table(descriptor, settings)
            except InvalidInputError as error:
                yield setting, error.detail


def _chosen_plugins(settings: Settings, plugins: Plugins) -> Iterator[tuple[str, str]]:
    """Look for the names of plugins' objects in other settings. The runtimes of the roles have checks of their own."""
    chosen = (
        ("finetune.backend", settings.finetune.backend, plugins.backends, "training backend"),
        ("debate.judge", settings.debate.judge, plugins.judges, "judge"),
        ("benchmark.judge", settings.benchmark.judge, plugins.judges, "judge"),
    )
    for setting, name, shelf, noun in chosen:
        if name not in (AUTO, "none", "") and name not in shelf:
            yield setting, f"{setting}: {_describe_unknown(noun, name, shelf.names())}"


def _describe_unknown(noun: str, name: str, known: list[str]) -> str:
    close = get_close_matches(name.lower(), known, n=1)
    if close:
        return f"no {noun} called {name!r} is installed. Did you mean {close[0]!r}?"
    return f"no {noun} called {name!r} is installed; there are {', '.join(known) or 'none'}."
