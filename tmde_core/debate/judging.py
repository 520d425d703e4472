"""Asks a judge, and turns everything that can go wrong with it into "no verdict" and the reason. Never into a 0."""

from __future__ import annotations

import math

import msgspec
import structlog

from tmde_core.errors import TmdeError
from tmde_core.plugins import Plugins
from tmde_core.records.judging import JudgeItem, Verdict
from tmde_core.sdk.judges import JudgeModel

log = structlog.get_logger(__name__)

NONE = "none"
AUTO = "auto"
WITH_REFERENCE = "verifier"
WITHOUT_REFERENCE = "rubric"


def chosen_judge(plugins: Plugins, judge: str, reference: str | None) -> str:
    """The judge's name for a debate; `none` when nobody judges.

    Raises:
        InvalidInputError: a judge was named and no plugin provides it.
    """
    if judge == NONE:
        return NONE
    if judge == AUTO:
        return WITH_REFERENCE if reference else WITHOUT_REFERENCE
    return plugins.judges.chosen(judge, "judge").name


async def judged(plugins: Plugins, name: str, item: JudgeItem, model: JudgeModel | None) -> Verdict:
    """The judge's verdict on an answer; no verdict, with the reason, when the judge is missing or fails."""
    if name == NONE:
        return Verdict(score=None, reasons=("No judge was asked.",))
    if name not in plugins.judges:
        return Verdict(score=None, reasons=(f"No plugin provides the judge {name!r}.",), judge=name)
    try:
        return await verdict_of(plugins, name, item, model)
    except TmdeError as error:
        return Verdict(score=None, reasons=(f"The judge could not score the answer: {error.detail}",), judge=name)


async def verdict_of(plugins: Plugins, name: str, item: JudgeItem, model: JudgeModel | None) -> Verdict:
    """The verdict of a judge that is there; no verdict, with the reason, when the judge itself is defective.

    Raises:
        TmdeError: its model is away, or fails.
    """
    try:
        verdict = await plugins.judges.get(name).create().score(item, model)
    except TmdeError:
        raise
    except Exception as error:  # a judge is a plugin: its defects must not cost anyone a debate
        log.warning("judge.failed", judge=name, error=repr(error))
        return Verdict(score=None, reasons=(f"The judge failed with {type(error).__name__}: {error}.",), judge=name)
    return _sound(verdict, name)


def _sound(verdict: object, name: str) -> Verdict:
    if not isinstance(verdict, Verdict):
        return Verdict(
            score=None, reasons=(f"The judge returned a {type(verdict).__name__} instead of a verdict.",), judge=name
        )
    score = verdict.score
    if score is not None and not (math.isfinite(score) and 0 <= score <= 10):
        return Verdict(score=None, reasons=(f"The judge's score {score} is not between 0 and 10.",), judge=name)
    return msgspec.structs.replace(verdict, judge=name)
