"""Identify the base model of a run by the hashes of its files. Private: import from `tmde_core.sdk.worker`."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from tmde_core.sdk.files import hash_file
from tmde_core.sdk.worker.kit import BaseIdentity

__all__ = ["SOURCE_FILE", "identify_base_model"]

SOURCE_FILE = "tmde-source.json"
"""In a directory of weights that were converted from a GGUF: names the GGUF and its SHA-256."""


class _Source(msgspec.Struct):
    file: str
    sha256: str


def identify_base_model(directory: Path, name: str, chat_template: object) -> BaseIdentity:
    """Return the manifest's description of a base model.

    The hash of converted weights is that of their GGUF, because the runtime serves this file. The hash of several
    safetensors files is that of their names and hashes.

    Args:
        directory: the directory of safetensors.
        name: the name of the base model; empty: the name of the GGUF or the directory.
        chat_template: the template of the tokenizer. Anything but a text has no hash.
    """
    source: _Source | None = None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        source = msgspec.json.decode((directory / SOURCE_FILE).read_bytes(), type=_Source)
    weights = sorted(directory.glob("*.safetensors"))
    if source is not None:
        model_sha256 = source.sha256
    elif len(weights) == 1:
        model_sha256 = hash_file(weights[0])
    else:
        model_sha256 = _hash_text("".join(f"{file.name} {hash_file(file)}\n" for file in weights))
    return BaseIdentity(
        name=name or (Path(source.file).stem if source else directory.name),
        model_sha256=model_sha256,
        tokenizer_sha256=hash_file(directory / "tokenizer.json"),
        chat_template_sha256=_hash_text(chat_template) if isinstance(chat_template, str) else None,
    )


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
