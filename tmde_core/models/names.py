"""Compares the names of models as publishers, files and servers write them."""

from __future__ import annotations

import re
from pathlib import PurePath

_QUANTIZATION = (
    r"(?:ud-)?(?:i?q[1-8](?:_[0-9a-z]+)*|tq[12]_0|mxfp4(?:_moe)?|nvfp4|b?f16|f32|fp16|fp32|fp8(?:-dynamic)?"
    r"|int[48]|w[48]a16|[48]bit)"
)
_ENDINGS = re.compile(
    rf"[._-](?:(?:i1-)?{_QUANTIZATION}|gguf|imatrix|(?:unsloth-)?bnb-4bit|awq|gptq(?:-int[48])?|\d{{5}}-of-\d{{5}})$"
)
_FILE_QUANTIZATION = re.compile(rf"[.:_-]({_QUANTIZATION})(?:-\d{{5}}-of-\d{{5}})?(?:\.gguf)?$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s:_/-]+")
_LONGEST = 300
"""The most characters of a name that are looked at. Endings are cut off one by one."""
_LATEST = re.compile(r":latest$")


def make_bare(name: str) -> str:
    """Return the name without publisher, ending and quantisation, in lower case, with dashes between its parts.

    Two names of the same model should give the same bare name: `HuggingFaceTB/SmolLM2-135M-Instruct`,
    `SmolLM2-135M-Instruct.Q4_1.gguf` and `SmolLM2 135M Instruct` all give `smollm2-135m-instruct`. The opposite does
    not hold: two models may have the same name.
    """
    found = without_endings(name).casefold()
    return _SEPARATORS.sub("-", found).strip("-")


def without_endings(name: str) -> str:
    """Return the name without publisher, folder, `.gguf` and quantisation, in its own spelling."""
    found = _LATEST.sub("", PurePath(name.strip()[:_LONGEST].rstrip("/")).name)
    if found.casefold().endswith(".gguf"):
        found = found[:-5]
    while found:
        cut = _ENDINGS.search(re.sub(r"[\s:]", "-", found.lower()))
        if cut is None or cut.start() == 0:
            return found
        found = found[: cut.start()]
    return found


def find_quantization(name: str) -> str:
    """Return the quantisation that a file's or server's name tells, such as `Q4_K_M`, or an empty text."""
    found = _FILE_QUANTIZATION.search(name.strip()[-_LONGEST:])
    return found[1].upper() if found else ""
