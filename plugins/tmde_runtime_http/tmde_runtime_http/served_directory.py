"""The directory from which vLLM's filesystem LoRA resolver loads adapters by their names.

An adapter's own directory never changes, because its manifest holds the hashes of its files. The resolver, however,
serves only an adapter whose configuration names the served model exactly as the server does. Each adapter therefore
gets a view: a directory with a hard link of its weights (or a copy, across file systems) and a configuration that names
the served model.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE
from tmde_core.sdk.errors import AdapterInvalidError, InsufficientStorageError
from tmde_core.sdk.runtimes import AdapterRef

DIRECTORY = "served-adapters"
"""The directory of the views in the data directory."""
PROBE = "tmde-probe-"
"""The beginning of the names of probes."""
LEFTOVER_SECONDS = 3600.0
"""The age at which an unfinished view or a probe was left by a process that was killed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class ServedDirectory:
    """The views of adapters in one directory, which the server must see too. The methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, adapter: AdapterRef, base: str) -> None:
        """Create or renew the view of an adapter, all at once.

        Args:
            adapter: the adapter, in PEFT's format.
            base: the name that the server gives to its model.

        Raises:
            AdapterInvalidError: the adapter has no configuration or no weights, or its id is no name of a directory.
            InsufficientStorageError: the directory cannot be written.
        """
        if not _NAME.fullmatch(adapter.id):
            raise AdapterInvalidError(f"The adapter's id {adapter.id!r} cannot be the name of a directory.")
        source = Path(adapter.directory)
        config = _config_for(source, base)
        target = self.path / adapter.id
        if _is_current(target, source, config):
            return
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            fresh, old = (self.path / f".{kind}-{uuid4().hex}" for kind in ("new", "old"))
            try:
                fresh.mkdir()
                (fresh / CONFIG_FILE).write_text(config, encoding="utf-8")
                _link(source / WEIGHTS_FILE, fresh / WEIGHTS_FILE)
                with suppress(FileNotFoundError):
                    target.rename(old)
                fresh.rename(target)
            finally:
                for path in (fresh, old):
                    shutil.rmtree(path, ignore_errors=True)

    def remove(self, adapter_id: str) -> bool:
        """Remove the view of an adapter. Return False if there is none."""
        if not _NAME.fullmatch(adapter_id):
            return False
        gone = self.path / f".old-{uuid4().hex}"
        try:
            (self.path / adapter_id).rename(gone)  # at once, so that the server never finds half a view
        except OSError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    @contextmanager
    def probe(self, base: str) -> Iterator[str]:
        """Create a view without weights, and yield its name.

        A server that looks into this directory finds the view and cannot load it. Another server finds nothing.

        Raises:
            InsufficientStorageError: the directory cannot be written.
        """
        name = f"{PROBE}{uuid4().hex}"
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            (self.path / name).mkdir()
            config = {
                "peft_type": "LORA",
                "base_model_name_or_path": base,
                "r": 1,
                "lora_alpha": 1,
                "target_modules": [],
            }
            (self.path / name / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        try:
            yield name
        finally:
            shutil.rmtree(self.path / name, ignore_errors=True)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InsufficientStorageError(
                f"The directory of served adapters {self.path} cannot be written: {error.strerror or error}."
            ) from error

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self.path.iterdir():
            if path.name.startswith((".new-", ".old-", PROBE)):
                with suppress(OSError):
                    if path.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                        shutil.rmtree(path, ignore_errors=True)


def _config_for(source: Path, base: str) -> str:
    try:
        config = json.loads((source / CONFIG_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterInvalidError(
            f"The adapter's configuration {source / CONFIG_FILE} cannot be read: {error}"
        ) from None
    if not isinstance(config, dict) or not (source / WEIGHTS_FILE).is_file():
        raise AdapterInvalidError(f"The directory {source} does not hold an adapter in PEFT's format.")
    return json.dumps({**config, "base_model_name_or_path": base}, indent=2) + "\n"


def _is_current(target: Path, source: Path, config: str) -> bool:
    """Return whether the view exists and links to the adapter's own weights. A copy is always renewed."""
    try:
        same = (target / WEIGHTS_FILE).samefile(source / WEIGHTS_FILE)
        return same and (target / CONFIG_FILE).read_text(encoding="utf-8") == config
    except (OSError, ValueError):
        return False


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
