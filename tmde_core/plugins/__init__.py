"""Finds, validates and creates plugins, and lists what each provides and which problems it has."""

from tmde_core.plugins.catalog import MAX_DESCRIPTORS, Plugins
from tmde_core.plugins.making import context_for, create
from tmde_core.plugins.records import PluginInfo, PluginProblem, PluginSetting, Provision
from tmde_core.plugins.shelf import Shelf

__all__ = [
    "MAX_DESCRIPTORS",
    "PluginInfo",
    "PluginProblem",
    "PluginSetting",
    "Plugins",
    "Provision",
    "Shelf",
    "context_for",
    "create",
]
