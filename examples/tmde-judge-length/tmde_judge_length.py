"""A judge that likes short answers: it takes one point off for every `per_point` characters."""

from typing import Annotated

from msgspec import Meta

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.judges import JudgeDescriptor, JudgeItem, JudgeModel, Verdict


class LengthSettings(PluginSettings):
    per_point: Annotated[int, Meta(title="Characters per point", ge=1)] = 100


class LengthJudge:
    def __init__(self, context: PluginContext[LengthSettings]) -> None:
        self.per_point = context.settings.per_point

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        reason = f"The answer has {len(item.answer):,} characters."
        return Verdict(score=max(0.0, 10 - len(item.answer) / self.per_point), reasons=(reason,))


@hookimpl
def tmde_judges() -> list[JudgeDescriptor]:
    summary = "likes short answers"
    return [
        JudgeDescriptor(name="length", summary=summary, settings=LengthSettings, create=LengthJudge)
    ]
