"""The same question, answered side by side by the base model and by adapters."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tmde_core.lora.service import LoraService
from tmde_core.runtimes import Runtimes
from tmde_core.settings import Settings
from tmde_core.storage.events import MemoryLog


class SideBySide:
    """Asks several versions the same question at once, and streams what each says."""

    def __init__(self, settings: Settings, runtimes: Runtimes, lora: LoraService) -> None:
        self._settings = settings
        self._runtimes = runtimes
        self._lora = lora

    async def ask(
        self,
        question: str,
        versions: Sequence[UUID | None],
        *,
        max_tokens: int = 384,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> UUID:
        """Begin; the events of the id returned tell what each version says. None is the base model.

        Raises:
            InvalidInputError: no question, over-long, or not 1 to 4 different versions.
            NotFoundError: no such adapter.
            AdapterInvalidError: an adapter cannot be used.
        """
        raise NotImplementedError

    def events(self, ask_id: UUID) -> MemoryLog:
        """`start {question, versions}`, `token {version, text}`, `answer {version, text, ms, tokens}`, then `complete` or `error`.

        `version` is an adapter's id or null.

        Raises:
            NotFoundError: no such question, or it was asked too long ago.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """End what is under way."""
