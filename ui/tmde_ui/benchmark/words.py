"""The words and figures of benchmark runs on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkRun, ComparisonOutcome, Interval
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count

TYPES = ("quick", "full", "custom")

MODES: Mapping[str, str] = {"debate": "whole debates", "proposer": "the Proposer alone"}

DOMAINS: Mapping[str, str] = {
    "mathematics": "Mathematics",
    "coding": "Coding",
    "science": "Science",
    "reasoning": "Reasoning",
    "creative": "Creative writing",
}

STATUS: Mapping[str, tuple[str, str]] = {
    "pending": ("starting", "accent"),
    "running": ("running", "accent"),
    "completed": ("done", "good"),
    "failed": ("failed", "critical"),
    "cancelled": ("cancelled", "major"),
    "interrupted": ("interrupted", "major"),
}
"""Run status → word and kind of chip."""

OUTCOMES: Mapping[ComparisonOutcome, tuple[str, str]] = {
    "better": ("better", "good"),
    "worse": ("worse", "critical"),
    "inconclusive": ("not yet distinguishable", ""),
}
"""Outcome → word and kind of chip."""

GATES: Mapping[str, tuple[str, str]] = {
    "proven": ("proven", "good"),
    "candidate": ("candidate", ""),
    "held-back": ("held back", "critical"),
}
"""The gate's decision → word and kind of chip."""

BY: Mapping[str, str] = {
    "manual": "by you",
    "post-finetune": "by the gate",
    "scheduled": "by the schedule",
}

NOTHING = "–"


def kind(run_type: str, mode: str) -> str:
    """Return the type and mode of a run: `quick, the Proposer alone`."""
    return f"{run_type}, {MODES.get(mode, mode)}"


def domain_name(domain: str) -> str:
    """Return the title of a domain. A plugin's domain is shown by its own name."""
    return DOMAINS.get(domain, domain[:1].upper() + domain[1:])


def domain_place(domain: str) -> tuple[int, str]:
    """Return the sort key of a domain: known domains in the order listed here, then others by name."""
    known = list(DOMAINS)
    return (known.index(domain) if domain in known else len(known), domain)


def day(moment: datetime) -> str:
    """Return `24 Nov 2026, 14:05`, in UTC."""
    return f"{moment.day} {moment:%b %Y, %H:%M}"


def format_number(value: float | None, decimals: int = 1) -> str:
    """Return a figure, or a dash if nothing was measured."""
    return NOTHING if value is None else f"{value:.{decimals}f}"


def signed(value: float, decimals: int = 1) -> str:
    """Return `+3.1`, `-0.4`, or 0 without a sign."""
    text = f"{value:+,.{decimals}f}"
    return text if round(value, decimals) else text[1:]


def change(difference: float | None, low: float | None = None, high: float | None = None, decimals: int = 1) -> str:
    """Return `+3.1 ± 5.7`. The figure after ± is half the width of the 95 % interval."""
    if difference is None:
        return NOTHING
    if low is None or high is None:
        return signed(difference, decimals)
    return f"{signed(difference, decimals)} ± {(high - low) / 2:.{decimals}f}"


def between(found: Interval, decimals: int = 1) -> str:
    """Return `5.1 to 7.0`; empty if there is no interval."""
    if found.low is None or found.high is None:
        return ""
    return f"{found.low:.{decimals}f} to {found.high:.{decimals}f}"


def quality(found: Interval | None) -> str:
    """Return `6.2 of 10 (95 % interval 5.1 to 7.0)`."""
    if found is None or found.mean is None:
        return "no verdict"
    span = between(found)
    return f"{found.mean:.1f} of 10" + (f" (95 % interval {span})" if span else "")


def format_run_time(run: BenchmarkRun, now: datetime | None = None) -> str:
    """Return how long a run took, or has taken so far."""
    end = run.completed_at or now or utc_now()
    return format_milliseconds(max(1.0, (end - run.started_at).total_seconds() * 1000))


def format_answer_count(run: BenchmarkRun) -> str:
    """Return `10 answers`, or `4 of 10 answers` for an incomplete run."""
    if run.status == "completed":
        return count(run.answer_count, "answer")
    return f"{run.completed_answers:,} of {count(run.answer_count, 'answer')}"
