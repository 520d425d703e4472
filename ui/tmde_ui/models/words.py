"""The words and figures of models on the pages."""

from __future__ import annotations

from collections.abc import Iterable

from tmde_core.models.service import ModelTest
from tmde_core.records.models import BaseModel, ServedForm
from tmde_core.runtimes import RuntimeReport
from tmde_ui.kit.base_models import ROLES, describe_form, format_weights
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, format_bytes, plain, snippet

LONGEST_ANSWER = 240
"""The most letters of a tried model's answer that are shown."""


def describe_base(base: BaseModel) -> str:
    """Return a line about a base model: `4 billion weights · apache-2.0 · 40,960 tokens of context`."""
    facts = (
        f"{format_weights(base.parameters)} weights" if base.parameters else "size unknown",
        base.license or "licence unknown",
        f"{base.context_length:,} tokens of context" if base.context_length else "",
        count(base.adapters, "adapter") if base.adapters else "",
    )
    return " · ".join(filter(None, facts))


def describe_served(form: ServedForm) -> str:
    """Return a line about a served form: `Q4_K_M · 2.5 GB · loaded`."""
    facts = (form.quantization, format_bytes(form.size_bytes), "loaded" if form.loaded else "")
    return " · ".join(filter(None, facts))


def describe_test(test: ModelTest) -> str:
    """Return how fast a tried model was."""
    loading = "" if test.was_loaded else ", loading included"
    first = f"First token after {format_milliseconds(1000 * test.seconds_to_first_token)}{loading}"
    if test.tokens_per_second is None:
        return f"{first}. The answer was too short to tell the speed."
    return f"{first}, then {test.tokens_per_second:g} tokens a second."


def quote_answer(test: ModelTest) -> str:
    """Return the answer of a tried model as one line."""
    answer = snippet(test.answer, LONGEST_ANSWER)
    return f"“{answer}”" if answer else "It answered nothing."


def name_roles(roles: Iterable[str]) -> str:
    """Return `Proposer, Skeptic`, or `every role`."""
    named = [ROLES[role] for role in ROLES if role in set(roles)]
    return "every role" if len(named) == len(ROLES) else ", ".join(named)


def describe_silence(report: RuntimeReport) -> str:
    """Return why a runtime does not respond, in a sentence; empty if it does."""
    if not report.availability.ok:
        return plain(report.availability.reason)
    return plain(report.status.detail) if report.status.state == "failed" else ""


def name_form(base: BaseModel, form: ServedForm) -> str:
    """Return `Qwen3-4B (ollama, Q4_K_M)`."""
    return f"{base.name} ({describe_form(form)})"
