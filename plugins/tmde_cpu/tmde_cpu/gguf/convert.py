"""Write a directory of safetensors as one GGUF file in float16. Runs in a subprocess only.

    python -m tmde_cpu.gguf.convert DIRECTORY FILE

The converter supports the families of `families` with a byte-level BPE tokenizer or the BPE of sentencepiece. It refuses
everything else with one sentence on stderr, because a file that loads and produces nonsense would be worse. The
conversion follows llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

from tmde_cpu.gguf.families import (
    SEEING,
    Array,
    Family,
    Names,
    UnsupportedModelError,
    find_family,
    heads_of,
    in_order,
    language_config,
)
from tmde_cpu.gguf.tokenizer import write_tokenizer

CLASSES = (
    *("LlamaForCausalLM", "MistralForCausalLM", "SmolLM3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    *("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Phi3ForCausalLM"),
)
"""The classes of models that are converted. Others of the same families classify or embed texts."""
GEMMA_PERIOD = 6
"""Every sixth layer of Gemma 3 sees the whole text. llama.cpp knows no other period."""
SMOLLM_PERIOD = 4
"""Every fourth layer of SmolLM3 does without positions. llama.cpp knows no other period."""
GEMMA_27B_LAYERS = 62
"""The number of layers by which llama.cpp recognises the one Gemma 3 that scales its attention otherwise."""

_DTYPES: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_ANOTHER = "Name a GGUF file of the model instead."


def convert(directory: Path, target: Path, matrices: type[np.floating[Any]] = np.float16) -> None:
    """Write the model in `directory` to `target`.

    Args:
        directory: contains config.json, safetensors and the tokenizer.
        target: the GGUF file.
        matrices: the type of the matrices. Norms and biases are always written in float32.

    Raises:
        UnsupportedModelError: the kind of model cannot be converted.
        OSError, KeyError, ValueError: a file is missing or damaged.
    """
    config = language_config(_json(directory / "config.json"))
    family = find_family(config)
    _check(family, config)
    writer = gguf.GGUFWriter(target, family.name)
    _write_shape(writer, family, config, directory.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if matrices is np.float16 else gguf.LlamaFileType.ALL_F32)
    write_tokenizer(writer, config, directory)

    names = Names(family, int(config["num_hidden_layers"]))
    tensors: list[tuple[str, Stored | Array]] = [*_rotation_tensors(config)]
    for stored in _stored(directory):
        if stored.name.startswith(SEEING):
            continue
        if stored.name.endswith("lm_head.weight") and config.get("tie_word_embeddings"):
            continue
        name = names.of_tensor(stored.name)
        if name is None:
            raise UnsupportedModelError(
                f"{directory.name} holds the tensor {stored.name}, which no {family.name} model of llama.cpp has."
            )
        tensors.append((name, stored))
    for name, tensor in tensors:
        dtype = np.dtype(_written_as(tensor, matrices))
        writer.add_tensor_info(name, tensor.shape, dtype, int(np.prod(tensor.shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors:  # one at a time, so that the model need not fit into memory twice
        values = _ready(family, config, tensor) if isinstance(tensor, Stored) else tensor
        writer.write_tensor_data(np.ascontiguousarray(values.astype(_written_as(tensor, matrices))))
    writer.close()


def _written_as(tensor: Stored | Array, matrices: type[np.floating[Any]]) -> type[np.floating[Any]]:
    """Return the type in the GGUF file. Norms stay in float32: they are few, and their errors affect everything."""
    return np.float32 if len(tensor.shape) == 1 else matrices


def _ready(family: Family, config: Mapping[str, Any], stored: Stored) -> Array:
    """Return the values of a tensor as llama.cpp wants them."""
    values = in_order(family, stored.name.rpartition(".")[0], stored.read(), config)
    return values.astype(np.float32) + 1 if family.shifted_norms and "norm." in stored.name else values


# ------------------------------------------------------------------------------------------- shape


def _check(family: Family, config: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp would compute otherwise than transformers."""
    classes = config.get("architectures") or ["unknown"]
    if classes[0] not in CLASSES:
        raise UnsupportedModelError(f"It is a {classes[0]}; known are {', '.join(CLASSES)}. {_ANOTHER}")
    activation = config.get("hidden_activation") or config.get("hidden_act") or family.activation
    if activation != family.activation:
        raise UnsupportedModelError(
            f"It computes with {activation!r}, where llama.cpp's {family.name} computes with {family.activation!r}. {_ANOTHER}"
        )
    kind = _rotation_kind(_rotation(config))
    if kind not in family.rotations:
        raise UnsupportedModelError(
            f"It scales its rotary positions in the way {kind!r}, which cannot be converted for {family.name}. {_ANOTHER}"
        )
    if (
        config.get("use_sliding_window")
        or config.get("final_logit_softcapping")
        or config.get("attn_logit_softcapping")
    ):
        raise UnsupportedModelError(
            f"It sees through a sliding window or caps its logits, which llama.cpp's {family.name} does not. {_ANOTHER}"
        )
    if family.architecture == gguf.MODEL_ARCH.SMOLLM3:
        places = config.get("no_rope_layers")
        if places and any(bool(one) != bool((layer + 1) % SMOLLM_PERIOD) for layer, one in enumerate(places)):
            raise UnsupportedModelError(f"Its layers without positions are not those that llama.cpp knows. {_ANOTHER}")
    if family.architecture == gguf.MODEL_ARCH.GEMMA3:
        _check_gemma(config)


def _check_gemma(config: Mapping[str, Any]) -> None:
    kinds = config.get("layer_types") or []
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or GEMMA_PERIOD
    regular = all((kind == "full_attention") == ((layer + 1) % GEMMA_PERIOD == 0) for layer, kind in enumerate(kinds))
    if not regular or (not kinds and period != GEMMA_PERIOD):
        raise UnsupportedModelError(f"Its sliding windows are not in the layers where llama.cpp has them. {_ANOTHER}")
    big = int(config["num_hidden_layers"]) == GEMMA_27B_LAYERS
    scaled = int(config["hidden_size"]) // int(config["num_attention_heads"]) if big else _head_width(config)
    if config.get("query_pre_attn_scalar", scaled) != scaled:
        raise UnsupportedModelError(f"It scales its attention otherwise than llama.cpp does. {_ANOTHER}")


def _rotation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how rotary positions are computed, for layers that see the whole text."""
    told = config.get("rope_parameters") or {}
    if "full_attention" in told:
        return dict(told["full_attention"])
    base = {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor")}
    return {**base, **(config.get("rope_scaling") or {}), **told}


def _rotation_kind(rotation: Mapping[str, Any]) -> str:
    kind = str(rotation.get("rope_type") or rotation.get("type") or "default")
    return "longrope" if kind == "su" else kind


def _head_width(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // heads_of(config)[0])


def _context(family: Family, config: Mapping[str, Any]) -> int:
    context = int(config["max_position_embeddings"])
    if family.architecture == gguf.MODEL_ARCH.LLAMA and config.get("sliding_window"):
        # llama.cpp's llama knows no sliding window. A text that fits into the window is computed alike.
        return min(context, int(config["sliding_window"]))
    return context


def _write_shape(writer: gguf.GGUFWriter, family: Family, config: Mapping[str, Any], name: str) -> None:
    heads, key_heads = heads_of(config)
    rotation, width = _rotation(config), _head_width(config)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(_context(family, config))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(rotation.get("rope_theta") or 10_000.0))
    writer.add_rope_dimension_count(int(width * float(rotation.get("partial_rotary_factor") or 1.0)))
    writer.add_vocab_size(int(config["vocab_size"]))
    if family.architecture == gguf.MODEL_ARCH.GEMMA3:
        writer.add_sliding_window(int(config["sliding_window"]))
        local = (config.get("rope_parameters") or {}).get("sliding_attention", {}).get("rope_theta")
        writer.add_rope_freq_base_swa(float(local or config.get("rope_local_base_freq") or 10_000.0))
    if family.architecture == gguf.MODEL_ARCH.PHI3:
        writer.add_sliding_window(int(config.get("sliding_window") or 0))
    _write_rotation(writer, config, rotation)


def _write_rotation(writer: gguf.GGUFWriter, config: Mapping[str, Any], rotation: Mapping[str, Any]) -> None:
    kind = _rotation_kind(rotation)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rotation["factor"]))
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(_trained_context(config, rotation))
    if kind == "longrope":
        stretch = int(config["max_position_embeddings"]) / _trained_context(config, rotation)
        usual = math.sqrt(1 + math.log(stretch) / math.log(_trained_context(config, rotation))) if stretch > 1 else 1.0
        writer.add_rope_scaling_attn_factors(float(rotation.get("attention_factor") or usual))


def _trained_context(config: Mapping[str, Any], rotation: Mapping[str, Any]) -> int:
    """Return the context length before the rotary positions were scaled."""
    told = rotation.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(told or config["max_position_embeddings"])


def _rotation_tensors(config: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """Return the factors by which llama.cpp divides the frequencies of rotary positions, if the model scales them."""
    rotation = _rotation(config)
    kind = _rotation_kind(rotation)
    if kind == "llama3":
        return [("rope_freqs.weight", _llama3_factors(config, rotation))]
    if kind != "longrope":
        return []
    return [
        (f"rope_factors_{name}.weight", np.array(rotation[f"{name}_factor"], np.float32)) for name in ("long", "short")
    ]


def _llama3_factors(config: Mapping[str, Any], rotation: Mapping[str, Any]) -> Array:
    """Return the factors of Llama 3.1 and 3.2: slow rotations become slower, fast ones stay, and some are between."""
    width, base = _head_width(config), float(rotation.get("rope_theta") or 10_000.0)
    factor, trained = float(rotation["factor"]), _trained_context(config, rotation)
    low, high = float(rotation.get("low_freq_factor", 1.0)), float(rotation.get("high_freq_factor", 4.0))
    waves = 2 * math.pi * base ** (np.arange(0, width, 2, dtype=np.float64) / width)
    smooth = np.clip((trained / waves - low) / (high - low), 0, 1)
    return np.array(1 / ((1 - smooth) / factor + smooth), np.float32)


# ------------------------------------------------------------------------------------------ weights


class Stored(msgspec.Struct, frozen=True):
    """A tensor in a safetensors file.

    The file has 8 bytes of header length, the header in JSON, then the values one after the other.
    """

    name: str
    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Array:
        """Return the values of the tensor."""
        raw = np.fromfile(self.file, dtype=_DTYPES[self.dtype], count=int(np.prod(self.shape)), offset=self.start)
        if self.dtype == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.reshape(self.shape)


def _stored(directory: Path) -> Iterator[Stored]:
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError(f"{file.name} is damaged")
            header = msgspec.json.decode(opened.read(length))
        for name, told in header.items():
            if name == "__metadata__":
                continue
            if told["dtype"] not in _DTYPES:
                raise UnsupportedModelError(f"{file.name} holds {told['dtype']} values; known are F32, F16 and BF16.")
            start, end = told["data_offsets"]
            if 8 + length + end > file.stat().st_size:
                raise ValueError(f"{file.name} is cut short")
            yield Stored(name, file, 8 + length + start, tuple(told["shape"]), told["dtype"])


def _json(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def main(arguments: list[str]) -> int:
    """Convert the model. Return 1 and print one sentence to stderr if the conversion fails."""
    directory, target = Path(arguments[0]), Path(arguments[1])
    try:
        convert(directory, target)
    except UnsupportedModelError as error:
        sys.stderr.write(f"{error}\n")
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        sys.stderr.write(f"A file of it is missing or damaged ({type(error).__name__}: {error}).\n")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
