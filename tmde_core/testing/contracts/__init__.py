"""Contracts: what must hold of the things that plugins provide. Subclass one in a test module and say how the thing is made:

    class TestMyJudge(JudgeContract):
        def judge(self):
            return MyJudge(make_context(MySettings))

`tmde plugins check NAME` runs the same contracts against an installed plugin. The tests are plain functions that run
coroutines in an event loop of their own, so no asyncio plugin of pytest is needed, and none is in the way.

A method such as `judge` may ask for fixtures by the names of its arguments, as a test does.
"""

from __future__ import annotations

from tmde_core.testing.contracts.judges import JudgeContract
from tmde_core.testing.contracts.plugins import PluginContract
from tmde_core.testing.contracts.registries import RegistryContract
from tmde_core.testing.contracts.runtimes import RuntimeContract, ServedModelContract
from tmde_core.testing.contracts.suites import SuiteContract
from tmde_core.testing.contracts.training import TrainingBackendContract

__all__ = [
    "JudgeContract",
    "PluginContract",
    "RegistryContract",
    "RuntimeContract",
    "ServedModelContract",
    "SuiteContract",
    "TrainingBackendContract",
]
