"""The Judge's seat, and the seats of a panel beside it."""

import msgspec

from tmde_core.benchmark.running.runner import JudgeSource, panel_roles
from tmde_core.sdk.judges import ModelPanel
from tmde_core.settings import BenchmarkSettings, RoleSettings


def test_a_member_is_named_by_its_runtime_and_model():
    judge = RoleSettings(runtime="embedded", model="small", max_tokens=16)
    roles = panel_roles(judge, ["ollama:llama3:8b", "other"])
    assert [(role.runtime, role.model, role.max_tokens) for role in roles] == [
        ("ollama", "llama3:8b", 16),
        ("other", "", 16),
    ]


async def test_the_judge_sits_first_among_the_members_of_its_panel(fake_services):
    settings = msgspec.structs.replace(
        fake_services.settings, benchmark=BenchmarkSettings(panel=("scripted:scripted-1",))
    )
    model = await JudgeSource(settings, fake_services.runtimes).model()
    assert isinstance(model, ModelPanel)
    assert [member.seat.settings.model for member in model.members] == [settings.roles.judge.model, "scripted-1"]


async def test_without_a_panel_there_are_no_members(fake_services):
    model = await JudgeSource(fake_services.settings, fake_services.runtimes).model()
    assert not model.members
