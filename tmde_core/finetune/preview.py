"""What a run would train on, how long it would take, and what it would need; nothing is started."""

from __future__ import annotations

from tmde_core.finetune.records import FineTuneConfig, FineTunePreview
from tmde_core.finetune.service import FineTuneService
from tmde_core.plugins import Plugins
from tmde_core.settings import Settings


class PreviewService:
    """Looks at a dataset before time is spent on it."""

    def __init__(self, settings: Settings, plugins: Plugins, finetune: FineTuneService) -> None:
        self._settings = settings
        self._plugins = plugins
        self._finetune = finetune

    async def preview(self, config: FineTuneConfig | None = None) -> FineTunePreview:
        """What a run with this configuration would do.

        Raises:
            InvalidInputError: a value is out of its range, or the base model does not exist.
            PluginUnavailableError: no such backend, or it cannot work here.
        """
        raise NotImplementedError
