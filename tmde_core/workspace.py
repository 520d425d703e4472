"""What every service that asks models shares: settings, templates, plugins, and the runtimes that plugins offer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tmde_core.plugins import Plugins
    from tmde_core.runtimes import Runtimes
    from tmde_core.settings import LiveSettings, Settings
    from tmde_core.templates.store import TemplateStore


@dataclass(frozen=True, eq=False)
class Workspace:
    """The settings, templates, plugins and runtimes of one open data directory.

    Plugins are loaded when they are first needed. A command that lists records needs none.
    """

    live: LiveSettings
    templates: TemplateStore
    given: Plugins | None = None
    """The plugins to use; None loads the installed ones."""

    @property
    def settings(self) -> Settings:
        """The settings in force now."""
        return self.live.current

    @cached_property
    def plugins(self) -> Plugins:
        """Every plugin, and what each one provides."""
        if self.given is not None:
            return self.given
        from tmde_core.plugins import Plugins  # takes a tenth of a second, which reading commands do not have

        return Plugins.load()

    @cached_property
    def runtimes(self) -> Runtimes:
        """The model runtimes of this process."""
        from tmde_core.runtimes import Runtimes

        return Runtimes(self.plugins, self.settings)

    async def stop(self) -> None:
        """Stop every runtime that was started."""
        if "runtimes" in vars(self):
            await self.runtimes.stop()
