"""Finding, validating and making plugins: who offers what, and what is wrong with whom."""

from tmde_core.plugins.catalog import MAX_DESCRIPTORS, Plugins
from tmde_core.plugins.making import context_for
from tmde_core.plugins.records import PluginInfo, PluginProblem, Provision
from tmde_core.plugins.shelf import Shelf

__all__ = ["MAX_DESCRIPTORS", "PluginInfo", "PluginProblem", "Plugins", "Provision", "Shelf", "context_for"]
