"""A plugin with one good hook, and one whose name is missing a letter."""

from __future__ import annotations

from tmde_core.sdk import hookimpl
from tmde_core.sdk.judges import JudgeDescriptor, JudgeItem, JudgeModel, Verdict
from tmde_core.sdk.suites import Question, SuiteDescriptor


class StrictJudge:
    """Likes nothing."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """See `tmde_core.sdk.judges.Judge`."""
        return Verdict(score=0.0, judge="strict")


@hookimpl
def tmde_judges() -> list[JudgeDescriptor]:
    """See `tmde_core.sdk.hooks`."""
    return [JudgeDescriptor(name="strict", summary="likes nothing", create=lambda _context: StrictJudge())]


@hookimpl
def tmde_benchmark_suite() -> list[SuiteDescriptor]:
    """Should end in "suites"."""
    return [SuiteDescriptor(name="lost", summary="never seen", questions=lambda: (Question(id="q", query="?"),))]
