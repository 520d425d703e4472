"""Hyperparameters as people read them."""

from __future__ import annotations

import pytest

from tmde_ui.kit.hyperparameters import figure_of


@pytest.mark.parametrize(("value", "words"), [(1e-5, "0.00001"), (2e-4, "0.0002"), (16, "16"), (0.03, "0.03")])
def test_small_figures_are_written_out(value, words):
    assert figure_of(value) == words
