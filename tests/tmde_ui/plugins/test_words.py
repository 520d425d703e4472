"""The words of the page of plugins about environments of training backends."""

from __future__ import annotations

import pytest

from tmde_core.backends.progress import Installation
from tmde_core.backends.service import BackendEnvironment
from tmde_core.records.base import utc_now
from tmde_core.records.runtimes import Availability
from tmde_ui.plugins.words import describe_state


@pytest.mark.parametrize(
    ("state", "word"), [("installed", "examining"), ("incomplete", "installing"), ("absent", "installing")]
)
def test_an_environment_that_is_complete_is_only_examined(state, word):
    running = Installation("mine", "cpu", "installing", utc_now(), process=1, step="…")
    backend = BackendEnvironment("mine", "trains", state, "python", Availability(ok=True), False, installation=running)
    assert describe_state(backend)[0] == word
