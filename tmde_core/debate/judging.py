"""Asks judges and turns every failure into "no verdict" with a reason, never into a score of 0."""

from __future__ import annotations

import math

import msgspec
import structlog

from tmde_core.errors import PluginUnavailableError, TmdeError
from tmde_core.plugins import create
from tmde_core.plugins.records import describe_error
from tmde_core.records.judging import JudgeItem, Verdict
from tmde_core.sdk.hooks import AUTO
from tmde_core.sdk.judges import JudgeModel
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

NONE = "none"


class Judges:
    """The judges that plugins offer: chooses a judge and asks it."""

    def __init__(self, workspace: Workspace) -> None:
        self._plugins = workspace.plugins
        self._settings = workspace.settings

    def choose(self, judge: str, reference: str | None) -> str:
        """Return the name of a debate's judge, or `none` if no judge scores the debate.

        Args:
            judge: A name, `none`, or `auto`. With `auto`, a checking judge is used if there is a reference, otherwise
                the default judge.
            reference: The reference answer, if there is one.

        Raises:
            InvalidInputError: No plugin provides the named judge.
        """
        if judge == NONE:
            return NONE
        if judge == AUTO:
            return self.checking if reference else self.default
        return self._plugins.judges.choose(judge, "judge").name

    @property
    def checking(self) -> str:
        """The judge that decides by checks and references; `none` if no plugin offers one."""
        return next((one.name for one in self._plugins.judges if one.checks), NONE)

    @property
    def default(self) -> str:
        """The judge that scores without a check; `none` if no plugin offers one."""
        chosen = self._plugins.judges.default()
        return NONE if chosen is None else chosen.name

    def rules(self, judge: str) -> dict[str, int]:
        """Return the versions of the rules that a benchmark run with this judge is scored by.

        Judges with the first version of their rules are left out, as in runs that were stored before versions were.
        """
        names = {self.checking, self.default if judge == AUTO else judge} - {NONE}
        versions = {name: self._plugins.judges.get(name).rules for name in sorted(names) if self.offers(name)}
        return {name: version for name, version in versions.items() if version != 1}

    def offers(self, name: str) -> bool:
        """Return whether a plugin offers the judge."""
        return name in self._plugins.judges

    def checks(self, name: str) -> bool:
        """Return whether the judge decides by checks and references."""
        return name in self._plugins.judges and self._plugins.judges.get(name).checks

    def needs_model(self, name: str) -> bool:
        """Return whether a plugin offers the judge and the judge asks a model."""
        return name in self._plugins.judges and self._plugins.judges.get(name).needs_model

    async def judge(self, name: str, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Return the judge's verdict on an answer.

        If the judge is missing or fails, the verdict has no score and gives the reason.
        """
        if name == NONE:
            return Verdict(score=None, reasons=("No judge was asked.",))
        if name not in self._plugins.judges:
            return Verdict(score=None, reasons=(f"No plugin provides the judge {name!r}.",), judge=name)
        try:
            return await self.ask(name, item, model)
        except TmdeError as error:
            return Verdict(score=None, reasons=(f"The judge could not score the answer: {error.detail}",), judge=name)

    async def ask(self, name: str, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Return the verdict of a judge that a plugin offers.

        If the judge itself is defective, the verdict has no score and gives the reason.

        Raises:
            TmdeError: The judge's model is unavailable or fails, or the judge's settings are wrong.
        """
        descriptor = self._plugins.judges.get(name)
        try:
            judge = create(descriptor, self._settings)
        except PluginUnavailableError as error:
            log.warning("judge.failed", judge=name, error=error.detail)
            return Verdict(score=None, reasons=(error.detail,), judge=name)
        try:
            verdict = await judge.score(item, model)
        except TmdeError:
            raise
        except Exception as error:  # a judge is a plugin: its defects must not make a debate fail
            log.warning("judge.failed", judge=name, error=repr(error))
            return Verdict(score=None, reasons=(f"The judge failed with {describe_error(error)}.",), judge=name)
        return _require_sound(verdict, name)


def _require_sound(verdict: object, name: str) -> Verdict:
    """Return a valid verdict with the judge's name.

    An invalid verdict is replaced by one without a score that gives the reason.
    """
    if not isinstance(verdict, Verdict):
        reason = f"The judge returned a {type(verdict).__name__} instead of a verdict."
        return Verdict(score=None, reasons=(reason,), judge=name)
    score = verdict.score
    if score is not None and not (math.isfinite(score) and 0 <= score <= 10):
        return Verdict(score=None, reasons=(f"The judge's score {score} is not between 0 and 10.",), judge=name)
    return msgspec.structs.replace(verdict, judge=name)
