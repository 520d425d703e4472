"""Provides what all services that use models share: settings, templates, plugins and the plugins' runtimes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tmde_core.card import find_loan
from tmde_core.errors import TmdeError

if TYPE_CHECKING:
    from tmde_core.models.service import ModelService
    from tmde_core.plugins import Plugins
    from tmde_core.records.chat import AdapterRef
    from tmde_core.runtimes import Runtimes
    from tmde_core.settings import LiveSettings, Settings
    from tmde_core.templates.store import TemplateStore


@dataclass(frozen=True, eq=False)
class Workspace:
    """The settings, templates, plugins and runtimes of one open data directory.

    Plugins are loaded on first use. A command that lists records needs no plugins.
    """

    live: LiveSettings
    templates: TemplateStore
    given: Plugins | None = None
    """The plugins to use; None: load the installed plugins."""

    @property
    def settings(self) -> Settings:
        """The settings in force now, with `auto` replaced by names. Reading this property loads the plugins."""
        from tmde_core.plugins.defaults import resolve_roles

        return resolve_roles(self.live.current, self.plugins)

    @cached_property
    def plugins(self) -> Plugins:
        """All plugins with what they provide."""
        if self.given is not None:
            return self.given
        from tmde_core.plugins import Plugins  # this import takes 0.1 s, which commands that only read must not spend

        return Plugins.load()

    @cached_property
    def runtimes(self) -> Runtimes:
        """The model runtimes of this process."""
        from tmde_core.runtimes import Runtimes

        return Runtimes(self.plugins, self.settings, lambda: self.settings.roles)

    @cached_property
    def models(self) -> ModelService:
        """The base models."""
        from tmde_core.models.service import ModelService

        return ModelService(lambda: self.runtimes, lambda: self.settings)

    def find_why_idle(self, adapter: AdapterRef | None = None) -> str | None:
        """Return why no adapter answers, or not this one, as a sentence; None if it can, or while it is not known.

        It is known when the Proposer's runtime has started: some runtimes learn from their server what it can do. The
        call starts nothing.
        """
        role = self.settings.roles.proposer
        if "runtimes" not in vars(self):
            return None
        if adapter is not None and (misfit := self.models.find_misfit(adapter, role.runtime, role.model)) is not None:
            return misfit
        if not self.runtimes.is_started(role.runtime):
            return None
        capabilities = self.runtimes.made(role.runtime).capabilities
        if not capabilities.adapters:
            why = f"The Proposer's runtime {role.runtime!r} cannot serve adapters, so the base model answers."
            return f"{why} {capabilities.adapters_note}".strip()
        return None

    async def examine_base(self, adapter: AdapterRef) -> None:
        """Find out whether an adapter belongs to the Proposer's model, for `find_why_idle`; start nothing."""
        role = self.settings.roles.proposer
        if "runtimes" in vars(self):
            with suppress(TmdeError):
                await self.models.require_served_base(adapter, role.runtime, role.model)

    def find_why_paused(self) -> str | None:
        """Return why a role's model is paused and until when, in sentences; None if none is paused."""
        if find_loan(self.live.started.data_path) is None:
            return None
        roles = self.settings.roles
        for role in (roles.proposer, roles.skeptic, roles.synthesizer, roles.judge):
            if (why := self.runtimes.find_why_paused(role.runtime)) is not None:
                return why
        return None

    async def stop(self) -> None:
        """Stop every runtime that was started."""
        if "runtimes" in vars(self):
            await self.runtimes.stop()
