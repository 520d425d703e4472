"""A third party's plugin: a judge, a set of questions, and a model runtime that is never available."""

from __future__ import annotations

from collections.abc import Iterator

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.judges import JudgeDescriptor, JudgeItem, JudgeModel, Verdict
from tmde_core.sdk.runtimes import Availability, ModelRuntime, RuntimeDescriptor
from tmde_core.sdk.suites import Question, SuiteDescriptor


class LengthJudge:
    """Likes short answers: ten points for nothing, one less for every hundred characters."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """See `tmde_core.sdk.judges.Judge`."""
        return Verdict(score=max(0.0, 10 - len(item.answer) / 100), judge="length")


def no_runtime(context: PluginContext[PluginSettings]) -> ModelRuntime:
    """There is nothing to make: `availability` says so first."""
    raise NotImplementedError("the ACME computer is not connected")


@hookimpl
def tmde_judges() -> list[JudgeDescriptor]:
    """See `tmde_core.sdk.hooks`."""
    return [JudgeDescriptor(name="length", summary="likes short answers", create=lambda _context: LengthJudge())]


@hookimpl
def tmde_benchmark_suites() -> Iterator[SuiteDescriptor]:
    """A hook may also be a generator."""
    yield SuiteDescriptor(
        name="acme-sums",
        summary="one sum",
        questions=lambda: (Question(id="one", query="1 + 1?", reference="2", check="number"),),
    )


@hookimpl
def tmde_model_runtimes() -> list[RuntimeDescriptor]:
    """See `tmde_core.sdk.hooks`."""
    return [
        RuntimeDescriptor(
            name="acme",
            summary="the ACME computer",
            create=no_runtime,
            availability=lambda context: Availability(ok=False, reason="The ACME computer is not connected."),
        )
    ]
