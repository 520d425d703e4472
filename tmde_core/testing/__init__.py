"""Test tools for plugin authors: fakes of the ports, contexts, and contracts. The package is also a pytest plugin.

- `tmde_core.testing.contracts`: the rules for judges, runtimes, training backends, suites, registries and plugins.
- `tmde_core.testing.plugin`: the fixtures. pytest loads this module automatically where TMDE is installed.
- `tmde_core.testing.fake_servers`: servers that speak the protocols of vLLM and Ollama, answer oddly, or think.

Names are imported when they are first used, because pytest imports this package in every run, also in runs that do not
use TMDE.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmde_core.testing.adapters import write_adapter
    from tmde_core.testing.contexts import make_context
    from tmde_core.testing.scripted import (
        ACCEPT,
        DEFAULT_SCRIPT,
        REVISE,
        Reply,
        ScriptedRuntime,
        digit_logprobs,
        scripted_plugins,
        scripted_settings,
    )
    from tmde_core.testing.scripted_judge import ScriptedJudgeModel
    from tmde_core.testing.training_jobs import times_tables, write_job

__all__ = [
    "ACCEPT",
    "DEFAULT_SCRIPT",
    "REVISE",
    "Reply",
    "ScriptedJudgeModel",
    "ScriptedRuntime",
    "digit_logprobs",
    "make_context",
    "scripted_plugins",
    "scripted_settings",
    "times_tables",
    "write_adapter",
    "write_job",
]

_HOMES = {
    "ScriptedJudgeModel": "scripted_judge",
    "make_context": "contexts",
    "times_tables": "training_jobs",
    "write_adapter": "adapters",
    "write_job": "training_jobs",
}
"""Maps a name to its module. All other names are in `scripted`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'scripted')}"), name)
