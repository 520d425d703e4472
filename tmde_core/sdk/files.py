"""Files that are written completely or not at all, hashes, locks between processes, and storage errors as sentences."""

from __future__ import annotations

from tmde_core.storage.durable import sha256_of, storage_errors, sync_directory, sync_file, write_whole
from tmde_core.storage.locks import FileLock

__all__ = ["FileLock", "sha256_of", "storage_errors", "sync_directory", "sync_file", "write_whole"]
