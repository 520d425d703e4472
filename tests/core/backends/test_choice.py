"""Which backend `auto` takes, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tmde_core.errors import InvalidInputError
from tmde_core.plugins import Plugins
from tmde_core.plugins.defaults import choose_backend, resolve_backend
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.settings import Settings, load_settings


class Backend:
    def __init__(self, works: bool, reason: str = "") -> None:
        self._found = Availability(ok=works, reason=reason)

    def availability(self) -> Availability:
        return self._found


class Shy(Backend):
    """Works, but is not the best here."""

    def recommendation(self) -> Availability:
        return Availability(ok=False, reason="There is no card.")


def shelf(**backends: tuple[int, Any]) -> Plugins:
    plugins = Plugins()
    for name, (preference, made) in backends.items():
        descriptor = BackendDescriptor(
            name=name, summary="trains", preference=preference, default=not preference, create=lambda _, made=made: made
        )
        plugins.backends.add(descriptor, "tests")
    return plugins


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path, environ={})


def test_the_most_preferred_backend_that_works_is_taken(settings):
    plugins = shelf(cpu=(0, Backend(True)), second=(10, Backend(True)), first=(20, Backend(True)))
    assert choose_backend(plugins, settings).name == "first"


def test_one_that_does_not_work_is_passed_over_with_its_reason(settings):
    plugins = shelf(cpu=(0, Backend(True)), second=(10, Backend(True)), first=(20, Backend(False, "No card.")))
    chosen = choose_backend(plugins, settings)
    assert (chosen.name, chosen.why) == ("second", "It works here. Not first: No card.")


def test_the_default_one_is_the_last_resort_even_where_others_could_work_badly(settings):
    chosen = choose_backend(shelf(cpu=(0, Backend(True)), shy=(20, Shy(True))), settings)
    assert (chosen.name, chosen.why) == ("cpu", "It is the default one. Not shy: There is no card.")


def test_a_plugin_that_cannot_be_created_keeps_no_other_from_being_chosen(settings):
    chosen = choose_backend(shelf(cpu=(0, Backend(True)), broken=(20, None)), settings)
    assert chosen.name == "cpu"
    assert "Not broken: " in chosen.why


def test_a_backend_that_a_person_names_is_taken_whatever_auto_would_take(settings):
    plugins = shelf(cpu=(0, Backend(True)), first=(20, Backend(True)))
    config = FineTuneConfig(min_traces=1)
    assert resolve_backend(config, plugins, settings).backend == "first"
    assert resolve_backend(msgspec.structs.replace(config, backend="cpu"), plugins, settings).backend == "cpu"
    with pytest.raises(InvalidInputError, match="no training backend called 'none-such'"):
        resolve_backend(msgspec.structs.replace(config, backend="none-such"), plugins, settings)


def test_without_any_default_auto_is_refused_with_what_to_do(settings):
    assert choose_backend(shelf(), settings) is None
    with pytest.raises(InvalidInputError, match="No installed plugin provides a default training backend"):
        resolve_backend(FineTuneConfig(), shelf(), settings)
