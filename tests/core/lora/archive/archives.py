"""Adapters small enough for thousands of archives, and archives of every kind, sound and hostile."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import numpy as np

MODULES = tuple(f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj"))
RANK = 4

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "scripted-1",
    "r": RANK,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "inference_mode": True,
}


def weights(rank: int = RANK, size: int = 8, seed: int = 0, modules: Iterable[str] = MODULES) -> dict[str, np.ndarray]:
    """A and B of every module, float32."""
    draws = np.random.default_rng(seed)
    found = {}
    for module in modules:
        found[f"base_model.model.{module}.lora_A.weight"] = draws.normal(size=(rank, size)).astype("<f4")
        found[f"base_model.model.{module}.lora_B.weight"] = draws.normal(size=(size, rank)).astype("<f4")
    return found


def safetensors(tensors: Mapping[str, np.ndarray], **changes: Any) -> bytes:
    """A file; `changes` replace entries of its header, None removes one."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, tensor in tensors.items():
        kind = {"float32": "F32", "float16": "F16"}[tensor.dtype.name]
        end = len(content) + tensor.nbytes
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(content), end]}
        content += tensor.tobytes()
    header |= changes
    text = json.dumps({name: value for name, value in header.items() if value is not None}).encode()
    return struct.pack("<Q", len(text)) + text + content


def peft_files(**changes: Any) -> dict[str, bytes]:
    """What another tool saves; `changes` go into the configuration."""
    return {
        "adapter_config.json": json.dumps(CONFIG | changes).encode(),
        "adapter_model.safetensors": safetensors(weights()),
    }


def tar(files: Mapping[str, bytes], folder: str = "adapter/", form: int = tarfile.PAX_FORMAT) -> bytes:
    """The members in this order."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for name, content in files.items():
            archive.addfile(file_info(folder + name, len(content)), io.BytesIO(content))
    return output.getvalue()


def file_info(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def packed(files: Mapping[str, bytes], folder: str = "adapter/") -> bytes:
    return gzip.compress(tar(files, folder), 1)


def with_member(info: tarfile.TarInfo, content: bytes = b"", form: int = tarfile.GNU_FORMAT) -> bytes:
    """A sound archive with one more member, as tarfile would write it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for name, data in peft_files().items():
            archive.addfile(file_info(f"adapter/{name}", len(data)), io.BytesIO(data))
        archive.addfile(info, io.BytesIO(content))
    return gzip.compress(output.getvalue(), 1)


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Name without folder → content of the files of a sound archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        members = [member for member in opened if member.isfile()]
        return {member.name.rsplit("/", 1)[-1]: opened.extractfile(member).read() for member in members}  # type: ignore[union-attr]
