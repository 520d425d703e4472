"""Fakes at the ports and the contract suites that plugin authors run against their plugins."""

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

__all__ = [
    "ACCEPT",
    "DEFAULT_SCRIPT",
    "REVISE",
    "Reply",
    "ScriptedRuntime",
    "digit_logprobs",
    "make_context",
    "scripted_plugins",
    "scripted_settings",
]
