"""Define the rules for every plugin, whatever it provides. Subclass the contract in a test module and name the plugin.

class TestMyPlugin(PluginContract):
    module = "my_plugin.plugin"
    distribution = "my-package"
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tmde_core.entry_points import find_commands
from tmde_core.observers import bind
from tmde_core.plugins import Plugins
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record, from_json, utc_now
from tmde_core.sdk.context import Descriptor, MakingDescriptor, PluginSettings
from tmde_core.sdk.events import Event
from tmde_core.sdk.hooks import HOOKS
from tmde_core.testing.contracts.rules import broken, calling, require, run
from tmde_core.testing.events import sample_events
from tmde_core.testing.fresh import Loaded, find

__all__ = ["PluginContract"]


class EventOfALaterRelease(Record, frozen=True, kw_only=True):
    """An event of an unknown kind, as a later release may send."""

    at: datetime


class PluginContract:
    """The rules for plugins. pytest runs them in subclasses called `Test…`."""

    module = ""
    """The value of the entry point in the group `tmde.plugins`: `module` or `module:attribute`. Leave it empty if the
    package provides only commands."""
    distribution = ""
    """The name of the package, to find its commands."""

    def problems(self) -> tuple[str, ...]:
        """Return the problems of the plugin that `tmde plugins` lists."""
        return tuple(problem.detail for problem in self._loaded()[1])

    def test_it_has_no_problems(self) -> None:
        """Require that the plugin has no problems, because TMDE leaves out a part with a problem."""
        found = self.problems()
        require(not found, f"TMDE leaves out a part of the plugin. {' '.join(found)}")

    def test_importing_it_and_calling_its_hooks_loads_nothing_heavy(self, tmp_path: Path) -> None:
        """Require that the import and the hooks load no heavy packages, because every start of TMDE runs both."""
        loaded = self._look(tmp_path)
        require(
            not loaded.imported,
            f"Importing {self.module} and calling its hooks loads {', '.join(loaded.imported)}. Every start of TMDE does that, "
            "and each of these packages delays it. Import them inside the functions, or in the worker's module, that need them.",
        )

    def test_what_it_describes_can_be_made_with_default_settings(self, tmp_path: Path) -> None:
        """Require that `create` works with default settings, because a new user has not set any."""
        failed = self._look(tmp_path).failed
        told = "; ".join(f"{what}: {why.rstrip('.')}" for what, why in failed.items())
        require(
            not failed,
            f"create raises with the default settings and an empty data directory ({told}). TMDE calls create also to list what there "
            "is. Leave what can fail to availability(), start(), plan() or score().",
        )

    def test_making_what_it_describes_loads_nothing_heavy(self, tmp_path: Path) -> None:
        """Require that `create` loads no heavy packages, because TMDE calls it often, and in its event loop."""
        heavy = {what: names for what, names in self._look(tmp_path).made.items() if names}
        told = "; ".join(f"{what} loads {', '.join(names)}" for what, names in heavy.items())
        require(
            not heavy,
            f"create does too much: {told}. TMDE calls create for a list, a preview and every verdict, while other requests wait. "
            "Import such packages when the work begins.",
        )

    def test_each_thing_has_a_summary_of_one_line(self) -> None:
        """Require a one-line summary, which lists and menus show."""
        for noun, descriptor in self._descriptors():
            require(
                descriptor.summary.strip() and "\n" not in descriptor.summary,
                f"The {noun} {descriptor.name!r} has {'a summary of several lines' if descriptor.summary.strip() else 'no summary'}. "
                "Lists show it beside the name. Write one line.",
            )

    def test_its_settings_are_described(self) -> None:
        """Require a description for each setting, which the settings page and the docs show."""
        for noun, descriptor in self._descriptors():
            if isinstance(descriptor, MakingDescriptor) and (bare := undescribed(descriptor.settings)):
                broken(
                    f"The {noun} {descriptor.name!r} has settings that say nothing about themselves: {', '.join(bare)}. The person who "
                    "fills them in has only the name. Describe each: Annotated[int, Meta(title=…, description=…)]."
                )

    def test_its_observer_takes_every_event(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Require that the observer accepts an event of every kind, and one of an unknown kind."""
        monkeypatch.setenv("TMDE_DATA_DIR", str(tmp_path))  # the made-up events must not reach the user's files
        for observe in self._observers(tmp_path):
            events: list[Any] = [*sample_events(), EventOfALaterRelease(at=utc_now())]
            for event in events:
                kind = type(event).__name__
                later = isinstance(event, EventOfALaterRelease)
                advice = (
                    "Ignore the kinds that you do not know." if later else "Use what the event has, and expect None."
                )
                with calling(
                    f"tmde_event() with {'an event of an unknown kind' if later else f'a {kind}'}",
                    f"TMDE lists that as a problem of the plugin, and nothing was observed. {advice}",
                ):
                    returned = run(asyncio.to_thread(observe, event), "tmde_event()")
                if inspect.iscoroutine(returned):
                    returned.close()
                    broken("tmde_event() is asynchronous, and TMDE does not await it. Write a plain function.")

    def test_its_commands_can_be_imported(self) -> None:
        """Require that each command's entry point names a function or a `typer.Typer`."""
        for command in find_commands():
            if not self.distribution or command.distribution != self.distribution or command.problem:
                continue
            try:
                module, _, attribute = command.target.partition(":")
                found = find(f"{module}:{attribute or 'command'}")
            except BaseException as error:
                broken(
                    f"The command `tmde {command.name}` cannot be imported from {command.target}: {describe_error(error)}. Whoever calls "
                    "it sees only that. Correct the entry point in the group tmde.commands, or the module.",
                    error,
                )
            require(
                callable(found),
                f"The command `tmde {command.name}` leads to a {type(found).__name__}. TMDE calls a function or a typer.Typer. Correct "
                f"the entry point {command.target!r}.",
            )

    def _loaded(self) -> tuple[Plugins, tuple[Any, ...]]:
        """Load only this plugin and return its catalog and its problems."""
        plugins = Plugins()
        if not self.module:
            return plugins, ()
        with calling(
            f"Importing {self.module}", "TMDE leaves the whole plugin out. Correct the module or the entry point."
        ):
            plugin = find(self.module)
        return plugins, plugins.add("plugin", plugin).problems

    def _descriptors(self) -> Iterator[tuple[str, Descriptor]]:
        plugins, _ = self._loaded()
        for hook in HOOKS.values():
            for descriptor in plugins.shelf(hook.descriptor):
                yield hook.noun, descriptor

    def _observers(self, data_dir: Path) -> list[Callable[[Event], object]]:
        return [bind(observe, name, data_dir) for name, observe in self._loaded()[0].observers()]

    def _look(self, data_dir: Path) -> Loaded:
        if not self.module:
            return Loaded()
        command = [sys.executable, "-m", "tmde_core.testing.fresh", self.module, str(data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            broken(
                f"In a fresh interpreter, importing {self.module} and calling its hooks ended with exit status {done.returncode}: "
                f"{said[-1] if said else 'it said nothing'}"
            )
        loaded = from_json(done.stdout.splitlines()[-1].encode(), Loaded)
        if loaded.error:
            broken(
                f"In a fresh interpreter, {self.module} cannot be imported: {loaded.error}. TMDE leaves the whole plugin out. Correct "
                "the module or the entry point."
            )
        return loaded


def undescribed(settings: type[PluginSettings]) -> list[str]:
    """Return the names of the settings that have neither a title nor a description."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return [
        name
        for name in settings.__struct_fields__
        if not any(meta.title or meta.description for meta in _metas(hints[name]))
    ]


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    """Yield every `Meta` in a type, at any depth."""
    yield from (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, msgspec.Meta))
    for part in typing.get_args(hint):
        yield from _metas(part)
