"""Finding and validating plugins: who offers what, and what is wrong with whom."""

from tmde_core.plugins.catalog import KINDS, MAX_DESCRIPTORS, PluginInfo, PluginProblem, Plugins, Provision, Shelf

__all__ = ["KINDS", "MAX_DESCRIPTORS", "PluginInfo", "PluginProblem", "Plugins", "Provision", "Shelf"]
