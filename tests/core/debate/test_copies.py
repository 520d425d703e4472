"""Records made from records keep every field, those of the future too."""

from __future__ import annotations

import msgspec

from tmde_core.debate.judging import Judges
from tmde_core.debate.seats import merge_roles
from tmde_core.records.debate import DebateConfig
from tmde_core.records.judging import JudgeItem, Verdict
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.settings import LiveSettings, Roles, RoleSettings, Settings
from tmde_core.testing import scripted_plugins
from tmde_core.testing.scripted import ScriptedRuntime
from tmde_core.workspace import Workspace


class FutureRole(RoleSettings, frozen=True):
    """A role's settings with a field that this version does not know."""

    min_p: float = 0.0


class FutureVerdict(Verdict, frozen=True):
    """A verdict with a field that this version does not know."""

    confidence: float = 0.0


class FutureJudge:
    async def score(self, item: JudgeItem, model: object) -> Verdict:
        return FutureVerdict(score=7.0, reasons=("So.",), judge="itself", confidence=0.9)


def test_a_debates_own_budget_changes_nothing_else_of_a_role():
    role = FutureRole(runtime="other", model="m", top_p=0.5, min_p=0.1)
    roles = merge_roles(Roles(proposer=role, synthesizer=role), DebateConfig(max_tokens=7, temperature=0.2))
    assert roles.proposer == msgspec.structs.replace(role, max_tokens=7, temperature=0.2)
    assert roles.synthesizer == msgspec.structs.replace(role, max_tokens=7)


async def test_a_verdict_is_given_its_judges_name_and_changed_in_nothing_else():
    plugins = scripted_plugins(ScriptedRuntime())
    plugins.judges.add(JudgeDescriptor(name="future", summary="s", create=lambda _context: FutureJudge()), "acme")
    verdict = await Judges(Workspace(LiveSettings(Settings()), None, plugins)).ask(
        "future", JudgeItem(question="q", answer="a"), None
    )
    assert verdict == FutureVerdict(score=7.0, reasons=("So.",), judge="future", confidence=0.9)
