"""Adapters carried away and brought in: archives written as a stream, and read as if an enemy had made them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal
from uuid import UUID

from tmde_core.lora.records import LoRAAdapter
from tmde_core.lora.service import LoraService
from tmde_core.record import Record

Format = Literal["peft", "peft-bin", "gguf"]


class Export(Record, frozen=True):
    """A file that is being written while it is read."""

    filename: str
    media_type: str
    chunks: AsyncIterator[bytes]
    size_bytes: int | None = None


class ArchiveService:
    """Export and import of adapters."""

    def __init__(self, lora: LoraService) -> None:
        self._lora = lora

    async def export(self, adapter_id: UUID, format: Format = "peft") -> Export:  # noqa: A002 - the word for it
        """An adapter as one file, streamed in constant memory.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: its files are damaged, or it has no GGUF form.
        """
        raise NotImplementedError

    async def import_archive(self, chunks: AsyncIterator[bytes], by: str = "user") -> LoRAAdapter:
        """Take in an archive, whole or not at all.

        Raises:
            InvalidInputError: no archive.
            TooLargeError: larger than an adapter may be.
            AdapterInvalidError: hostile or damaged; `reasons` has every reason. Nothing is left behind.
            InsufficientStorageError: no space.
        """
        raise NotImplementedError
