"""Checks whether an adapter fits the served model. An adapter on another base model produces gibberish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePath

from tmde_core.errors import ConflictError, NotFoundError
from tmde_core.records.lora import Manifest
from tmde_core.records.runtimes import ModelInfo
from tmde_core.storage.durable import hash_file

_hashes: dict[tuple[str, int, int], str] = {}
"""(path, size in bytes, modification time) → SHA-256, so that each process reads a model of several GB only once."""


def find_served_model(models: Sequence[ModelInfo], name: str, runtime: str) -> ModelInfo:
    """Return the model called `name`; an empty name is the runtime's default model.

    Args:
        models: the models that the runtime serves.
        name: the model's name in the settings.
        runtime: the runtime's name, for the error.

    Raises:
        NotFoundError: the runtime has no such model.
    """
    for model in models:
        if model.name == name if name else model.default:
            return model
    if named := next((model for model in models if name and model.answers_to(name)), None):
        return named
    if not name and models:
        return models[0]
    known = ", ".join(model.name for model in models) or "none"
    raise NotFoundError(f"The runtime {runtime!r} serves no model called {name!r}; it has: {known}.")


async def require_same_base(manifest: Manifest, served: ModelInfo) -> None:
    """Check that an adapter's base model is the served model.

    The two models are compared by their SHA-256 if both hashes are known, else by their names.

    Raises:
        ConflictError: the models differ; the message names both.
    """
    wanted = manifest.base_model_sha256
    actual = await asyncio.to_thread(hash_weights, served.path) if wanted and served.path else None
    if wanted and actual:
        if wanted == actual:
            return
        differ = f" (SHA-256 {wanted[:12]}… and {actual[:12]}…)"
    elif _bare(manifest.base_model) in {_bare(name) for name in (served.name, *served.aliases)}:
        return
    else:
        differ = ""
    raise ConflictError(
        f"The adapter {manifest.id} was trained on {manifest.base_model!r}, but the Proposer's model is {served.name!r}{differ}. "
        "Choose that base model for the Proposer in the settings, or train an adapter for this one.",
        adapterBase=manifest.base_model,
        servedBase=served.name,
    )


def hash_weights(path: str) -> str | None:
    """Return the SHA-256 of a model's weights file, or None if there is no single weights file."""
    found = Path(path)
    if found.is_dir():
        weights = list(found.glob("*.safetensors"))
        if len(weights) != 1:
            return None
        found = weights[0]
    try:
        state = found.stat()
        key = (str(found), state.st_size, state.st_mtime_ns)
        if key not in _hashes:
            _hashes[key] = hash_file(found)
    except OSError:
        return None
    return _hashes[key]


def _bare(name: str) -> str:
    """Return a model's name without folder, publisher and the ending `.gguf`, in lower case."""
    return PurePath(name).name.casefold().removesuffix(".gguf")
