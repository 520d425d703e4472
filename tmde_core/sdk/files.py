"""Provides atomic file writing, hashes, locks between processes, and storage errors with sentences for people."""

from __future__ import annotations

from tmde_core.storage.durable import hash_file, storage_errors, sync_directory, sync_file, write_atomic
from tmde_core.storage.locks import FileLock, is_locked

__all__ = ["FileLock", "hash_file", "is_locked", "storage_errors", "sync_directory", "sync_file", "write_atomic"]
