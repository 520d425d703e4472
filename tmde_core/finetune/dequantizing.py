"""Find the backend that converts the weights of a GGUF file, so that backends which train safetensors can use them."""

from __future__ import annotations

from pathlib import Path

import structlog

from tmde_core.plugins import Plugins, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.training import DequantizingBackend
from tmde_core.settings import Settings

__all__ = ["find_dequantizer"]

log = structlog.get_logger(__name__)


def find_dequantizer(plugins: Plugins, settings: Settings, weights: str) -> tuple[str, WorkerCommand] | None:
    """Return the backend that converts a base model's weights, and its command.

    None: they are no GGUF file, or nothing converts them.

    Args:
        plugins: the plugins.
        settings: the settings in force.
        weights: a path, or a name that only a backend knows.
    """
    path = Path(weights)
    if path.suffix.lower() != ".gguf":
        return None
    for descriptor in plugins.backends:
        try:
            backend = create(descriptor, settings)
            command = backend.dequantize(path) if isinstance(backend, DequantizingBackend) else None
        except Exception as error:  # a defect in one plugin must not keep the others from converting
            log.warning("finetune.dequantizer-failed", backend=descriptor.name, error=describe_error(error))
            continue
        if command is not None:
            return descriptor.name, command
    return None
