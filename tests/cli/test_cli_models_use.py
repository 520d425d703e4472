"""`tmde models use`: a model answers for the roles that a person names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import link_models
from tmde_core.plugins.defaults import ROLES
from tmde_core.settings import load_settings


def test_a_model_answers_for_all_roles_or_for_one(tmde: Callable[..., Any], tmp_path: Path, embedded_model) -> None:
    link_models(tmp_path / "data")

    def answering() -> list[tuple[str, str]]:
        roles = load_settings(tmp_path / "data", environ={}).roles
        return [(getattr(roles, name).runtime, getattr(roles, name).model) for name in ROLES]

    proposer, _skeptic, synthesizer, judge = answering()
    ran = tmde("models", "use", "SmolLM2-135M-Instruct", "--role", "skeptic")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{embedded_model.name} on embedded answers for the Skeptic from the next debate on.\n"
    assert answering() == [proposer, ("embedded", embedded_model.name), synthesizer, judge]
    assert tmde("models", "use", "SmolLM2-135M-Instruct").out.endswith("for all roles from the next debate on.\n")
    assert answering() == [("embedded", embedded_model.name)] * 4


def test_a_model_that_does_not_exist_changes_nothing(tmde: Callable[..., Any], tmp_path: Path) -> None:
    before = (tmp_path / "data" / "tmde.toml").read_text()
    ran = tmde("models", "use", "no-such-model")
    assert ran.code == 1
    assert ran.err.startswith("Error: There is no base model")
    assert (tmp_path / "data" / "tmde.toml").read_text() == before
