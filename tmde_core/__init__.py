"""TMDE's core: the debate, the loop, and the plugin contract."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("tmde")
"""Marks a function in a plugin as an implementation of one of the hooks in `tmde_core.hookspecs`."""

__all__ = ["__version__", "hookimpl"]
