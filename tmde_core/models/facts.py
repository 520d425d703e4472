"""Reads what the files of a model say about it: a GGUF file, or a directory of safetensors. Only headers are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.models.names import find_quantization
from tmde_core.records.base import Record
from tmde_core.records.foreign_json import ForeignJsonError, read_object
from tmde_core.sdk.gguf_header import is_count, read_header, read_shapes, shorten
from tmde_core.sdk.safetensors_header import SafetensorsError, read_tensors

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 4 * 1024 * 1024

_FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""llama.cpp's `LLAMA_FTYPE` (include/llama.h), which `general.file_type` holds."""


class ModelShape(Record):
    """The sizes that decide whether an adapter fits. An unknown size is None and equals every size."""

    blocks: int | None = None
    width: int | None = None
    """Size of the hidden state."""
    feed_forward: int | None = None
    heads: int | None = None
    key_heads: int | None = None

    def differs_from(self, other: ModelShape) -> bool:
        """Return whether a size that both know differs."""
        pairs = zip(self._sizes(), other._sizes(), strict=True)
        return any(a is not None and b is not None and a != b for a, b in pairs)

    def _sizes(self) -> tuple[int | None, ...]:
        return self.blocks, self.width, self.feed_forward, self.heads, self.key_heads


class ModelFacts(Record):
    """What the files of a model say about it."""

    names: tuple[str, ...] = ()
    """The names that the model gives itself."""
    architecture: str = ""
    license: str = ""
    parameters: int | None = None
    context_length: int | None = None
    quantization: str = ""
    chat_template: bool = False
    shape: ModelShape = ModelShape()
    vocabulary: int | None = None
    """Number of tokens of the vocabulary, possibly padded."""


def read_facts(path: Path) -> ModelFacts:
    """Return what a GGUF file or a directory of safetensors says about its model.

    Raises:
        InvalidInputError: the file is no GGUF model, or the directory has no readable config.json.
    """
    return _read_directory(path) if path.is_dir() else _read_gguf(path)


def _believe(value: object) -> int | None:
    return value if is_count(value) else None


def _read_gguf(path: Path) -> ModelFacts:
    header = read_header(path)
    if header.kind != "model":
        raise InvalidInputError(f"{path} is a GGUF {header.kind}, not a model.", field="model")
    kind = header.architecture

    def number(key: str) -> int | None:
        value = header.metadata.get(f"{kind}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(key: str) -> str:
        value = header.metadata.get(f"general.{key}")
        return shorten(value) if isinstance(value, str) else ""

    parts = [text(key) for key in ("basename", "size_label", "finetune")]
    names = {text("name"), "-".join(filter(None, parts)), "-".join(filter(None, (parts[0], parts[2], parts[1])))}
    shapes = read_shapes(path)
    rows = shapes.get("token_embd.weight", ())
    parts_count = header.metadata.get("split.count")
    whole = not isinstance(parts_count, int) or parts_count <= 1  # the first part of several has some of the tensors
    file_type = header.metadata.get("general.file_type")
    return ModelFacts(
        names=tuple(sorted(filter(None, names))),
        architecture=shorten(kind),
        license=text("license"),
        parameters=_believe(sum(math.prod(shape) for shape in shapes.values())) if whole else None,
        context_length=header.context_length,
        quantization=find_quantization(path.name)
        or (_FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else ""),
        chat_template=header.chat_template,
        shape=ModelShape(
            blocks=number("block_count"),
            width=number("embedding_length"),
            feed_forward=number("feed_forward_length"),
            heads=number("attention.head_count"),
            key_heads=number("attention.head_count_kv"),
        ),
        vocabulary=rows[0] if rows else None,
    )


def _read_directory(path: Path) -> ModelFacts:
    config = _read_config(path / CONFIG_FILE)
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config  # a model that also reads pictures

    def number(key: str) -> int | None:
        value = text.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    kind = text.get("model_type")
    name = config.get("_name_or_path")
    files = [file for file in path.glob("*.safetensors") if file.is_file()]
    try:
        parameters = sum(math.prod(one.shape) for file in files for one in read_tensors(file))
    except (SafetensorsError, OSError):
        parameters = 0
    return ModelFacts(
        names=(shorten(name),) if isinstance(name, str) and name and not name.startswith(("/", ".")) else (),
        architecture=shorten(kind) if isinstance(kind, str) else "",
        parameters=_believe(parameters),
        context_length=_believe(text.get("max_position_embeddings")),
        chat_template=_has_template(path),
        shape=ModelShape(
            blocks=number("num_hidden_layers"),
            width=number("hidden_size"),
            feed_forward=number("intermediate_size"),
            heads=number("num_attention_heads"),
            key_heads=number("num_key_value_heads"),
        ),
        vocabulary=number("vocab_size"),
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ForeignJsonError("it is no file")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ForeignJsonError("it is too large")
        return read_object(path.read_bytes())
    except FileNotFoundError:
        raise InvalidInputError(f"{path.parent} holds no model: it has no {CONFIG_FILE}.", field="model") from None
    except (OSError, ForeignJsonError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}.", field="model") from None


def _has_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file():
        return True
    try:
        return bool(_read_config(path / "tokenizer_config.json").get("chat_template"))
    except InvalidInputError:
        return False
