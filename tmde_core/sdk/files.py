"""Provides atomic file writing, hashes, locks between processes, and storage errors with sentences for people."""

from __future__ import annotations

from tmde_core.storage.durable import sha256_of, storage_errors, sync_directory, sync_file, write_whole
from tmde_core.storage.locks import FileLock

__all__ = ["FileLock", "sha256_of", "storage_errors", "sync_directory", "sync_file", "write_whole"]
