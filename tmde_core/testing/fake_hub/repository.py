"""A repository of the played hub: the files of a folder, with the hashes that a hub tells."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

LARGE_SUFFIXES = frozenset({".safetensors", ".gguf", ".bin", ".model", ".pt", ".onnx"})
"""Suffixes of files that a hub keeps in LFS whatever their size."""
LARGE_BYTES = 10_000_000
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


class Repository:
    """The files of one revision."""

    def __init__(self, folder: Path, name: str) -> None:
        """Read a folder; its content must not change afterwards."""
        self.folder = folder
        self.name = name
        self.files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        self.hashes = {path: _hash(file, self.is_large(path)) for path, file in self.files.items()}
        listed = "".join(f"{path} {digest}\n" for path, digest in self.hashes.items())
        self.commit = hashlib.sha1(listed.encode(), usedforsecurity=False).hexdigest()

    def is_large(self, path: str) -> bool:
        """Return whether the file is in LFS."""
        file = self.files[path]
        return file.suffix.lower() in LARGE_SUFFIXES or file.stat().st_size > LARGE_BYTES

    def siblings(self, *, sizes: bool, hashes: bool) -> list[dict[str, Any]]:
        """Return the files as the hub lists them."""
        return [self._sibling(path, sizes=sizes, hashes=hashes) for path in self.files]

    def card(self) -> dict[str, Any]:
        """Return the front matter of the README."""
        readme = self.files.get("README.md")
        found = _FRONT_MATTER.match(readme.read_text(encoding="utf-8")) if readme else None
        data = yaml.safe_load(found[1]) if found else {}
        return data if isinstance(data, dict) else {}

    def tags(self) -> list[str]:
        """Return the tags that the hub derives from the README and the files."""
        card = self.card()
        tags = [f"license:{card['license']}"] if "license" in card else []
        bases = card.get("base_model", [])
        for base in [bases] if isinstance(bases, str) else bases:
            tags.append(f"base_model:{base}")
            if relation := card.get("base_model_relation") or ("quantized" if self._has(".gguf") else ""):
                tags.append(f"base_model:{relation}:{base}")
        return tags

    def _has(self, suffix: str) -> bool:
        return any(path.endswith(suffix) for path in self.files)

    def _sibling(self, path: str, *, sizes: bool, hashes: bool) -> dict[str, Any]:
        told: dict[str, Any] = {"rfilename": path}
        if sizes:
            size = self.files[path].stat().st_size
            told["size"] = size
            if hashes and self.is_large(path):
                told |= {
                    "blobId": "0" * 39 + "1",
                    "lfs": {"sha256": self.hashes[path], "size": size, "pointerSize": 134},
                }
            elif hashes:
                told["blobId"] = self.hashes[path]
        return told


def _hash(file: Path, large: bool) -> str:
    content = file.read_bytes()
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
