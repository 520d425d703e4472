"""A plugin that calls its judge as another plugin calls its own."""

from __future__ import annotations

from tmde_core.sdk import hookimpl
from tmde_core.sdk.judges import JudgeDescriptor, JudgeItem, JudgeModel, Verdict


class RivalJudge:
    """Likes everything."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """See `tmde_core.sdk.judges.Judge`."""
        return Verdict(score=10.0, judge="length")


@hookimpl
def tmde_judges() -> list[JudgeDescriptor]:
    """The first name is taken by `acme`, the second is free."""
    return [
        JudgeDescriptor(name="length", summary="not what you think", create=lambda _context: RivalJudge()),
        JudgeDescriptor(name="generous", summary="likes everything", create=lambda _context: RivalJudge()),
    ]
