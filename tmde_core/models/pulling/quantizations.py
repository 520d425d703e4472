"""Reads quantisations from the names of GGUF files, and chooses one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PREFERRED = (
    "Q4_K_M",
    "UD-Q4_K_XL",
    "Q4_K_L",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4_MOE",
    "MXFP4",
    "Q5_K_M",
    "UD-Q5_K_XL",
    "Q5_K_L",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q6_K",
    "UD-Q6_K_XL",
    "Q6_K_L",
    "Q8_0",
    "UD-Q8_K_XL",
    "Q3_K_L",
    "UD-Q3_K_XL",
    "Q3_K_M",
)
"""What is taken if nobody chooses: Q4_K_M keeps most of a model's quality at a quarter of its size, and the others come
nearest to it. Files of more than four bits come before those of three, because they answer better."""

_QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-8](?:_(?:K|[01]|XXS|XS|S|M|L|NL|XL|4|8))+|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16"
    r"|FP16|F32|FP32))(?=$|[-._/])",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_ALIASES = {"FP16": "F16", "FP32": "F32"}
MOST_PARTS = 1000


class GgufModel(NamedTuple):
    """A GGUF model of a repository, with all its parts in order."""

    quantization: str
    paths: tuple[str, ...]
    size_bytes: int


def find_quantization(path: str) -> str:
    """Return the quantisation that a file's name tells, in upper case; empty if the name tells none."""
    found = _QUANTIZATION.findall(path.removesuffix(".gguf").removesuffix(".GGUF"))
    if split := _SPLIT.fullmatch(path):
        found = _QUANTIZATION.findall(split["stem"])
    return normalize(found[-1]) if found else ""


def normalize(quantization: str) -> str:
    """Return a quantisation as it is compared: in upper case, F16 for FP16."""
    upper = quantization.upper()
    return _ALIASES.get(upper, upper)


def group_parts(files: Iterable[tuple[str, int]]) -> tuple[list[GgufModel], list[str]]:
    """Return the GGUF models of a repository, and the paths of parts whose other parts are missing.

    Args:
        files: the paths and sizes of the GGUF files.
    """
    models, parts = [], dict[tuple[str, int], dict[int, tuple[str, int]]]()
    for path, size in sorted(files):
        split = _SPLIT.fullmatch(path)
        if split is None:
            models.append(GgufModel(find_quantization(path), (path,), size))
        else:
            parts.setdefault((split["stem"], int(split["count"])), {})[int(split["part"])] = (path, size)
    broken = []
    for (_, count), found in parts.items():
        ordered = [found[number] for number in sorted(found)]
        if 0 < count <= MOST_PARTS and sorted(found) == list(range(1, count + 1)):
            paths = tuple(path for path, _ in ordered)
            models.append(GgufModel(find_quantization(paths[0]), paths, sum(size for _, size in ordered)))
        else:
            broken += [path for path, _ in ordered]
    return sorted(models, key=lambda one: (one.size_bytes, one.paths)), broken


def choose(models: Sequence[GgufModel]) -> GgufModel:
    """Return the model to take if nobody chooses: the nearest to Q4_K_M, otherwise the smallest."""

    def rank(model: GgufModel) -> tuple[int, int]:
        place = PREFERRED.index(model.quantization) if model.quantization in PREFERRED else len(PREFERRED)
        return place, model.size_bytes

    return min(models, key=rank)


def match(models: Sequence[GgufModel], wanted: str) -> list[GgufModel]:
    """Return the models that a person may mean by a quantisation, such as `q4_k_m`."""
    wanted = normalize(wanted)
    exact = [model for model in models if model.quantization == wanted]
    return exact or [model for model in models if model.quantization.removeprefix("UD-") == wanted]
