"""Contracts: the rules for the things that plugins provide. Subclass a contract and say how the thing is made.

    class TestMyJudge(JudgeContract):
        def judge(self):
            return MyJudge(make_context(MySettings))

`tmde plugins check NAME` runs the same contracts against an installed plugin. The tests are plain functions that run
coroutines in a separate event loop. They need no asyncio plugin of pytest, and they work if one is installed.

A method such as `judge` may request fixtures by the names of its arguments, as a test does.
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
