"""Files that are written completely or not at all, hashes, and storage errors as sentences."""

from __future__ import annotations

from tmde_core.storage.durable import sha256_of, storage_errors, sync_directory, sync_file, write_whole

__all__ = ["sha256_of", "storage_errors", "sync_directory", "sync_file", "write_whole"]
