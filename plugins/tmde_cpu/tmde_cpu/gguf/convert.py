"""Write a directory of safetensors as one GGUF file in float16. Runs in a subprocess only.

    python -m tmde_cpu.gguf.convert DIRECTORY FILE

The converter supports models of the Llama kind with a byte-level BPE tokenizer. It refuses everything else with one
sentence on stderr, because a file that loads and produces nonsense would be worse. The conversion follows llama.cpp's
convert_hf_to_gguf.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

ARCHITECTURE = "LlamaForCausalLM"
LLAMA_3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The pattern that Llama 3 splits text with before it merges byte pairs."""

_DTYPES: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class UnsupportedArchitectureError(Exception):
    """The kind of model cannot be converted here. The message names the kind and the supported kinds."""


def convert(directory: Path, target: Path) -> None:
    """Write the model in `directory` to `target`.

    Raises:
        UnsupportedError: the kind of model cannot be converted.
        OSError, KeyError, ValueError: a file is missing or damaged.
    """
    config = _json(directory / "config.json")
    _check(config)
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    writer = gguf.GGUFWriter(target, "llama")
    _write_shape(writer, config, directory.name)
    _write_tokenizer(writer, config, directory)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    tensors: list[tuple[str, Stored]] = []
    for stored in _stored(directory):
        if stored.name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        name = names.get_name(stored.name, try_suffixes=(".weight",))
        if name is None:
            raise UnsupportedArchitectureError(
                f"{directory.name} holds the tensor {stored.name}, which no Llama model has."
            )
        dtype = stored.written_as
        nbytes = int(np.prod(stored.shape)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(name, stored.shape, np.dtype(dtype), nbytes)
        tensors.append((name, stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored in tensors:  # one at a time, so that the model need not fit into memory twice
        values = stored.read()
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _permuted(values, heads if "attn_q" in name else key_heads)
        writer.write_tensor_data(np.ascontiguousarray(values.astype(stored.written_as)))
    writer.close()


def _check(config: Mapping[str, Any]) -> None:
    architecture = (config.get("architectures") or ["unknown"])[0]
    if architecture != ARCHITECTURE:
        raise UnsupportedArchitectureError(
            f"It is a {architecture}; only {ARCHITECTURE} can be converted here. Name a GGUF file of the model instead."
        )
    rope = _rope(config)
    if rope.get("rope_type", rope.get("type", "default")) != "default" or config.get("attention_bias"):
        raise UnsupportedArchitectureError(
            "It scales its rotary positions or has attention biases, which cannot be converted here. "
            "Name a GGUF file of the model instead."
        )


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _write_shape(writer: gguf.GGUFWriter, config: Mapping[str, Any], name: str) -> None:
    heads = int(config["num_attention_heads"])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(config.get("rope_theta") or _rope(config).get("rope_theta") or 10_000.0))
    writer.add_rope_dimension_count(int(config.get("head_dim") or int(config["hidden_size"]) // heads))
    writer.add_vocab_size(int(config["vocab_size"]))


# ---------------------------------------------------------------------------------------- tokenizer


def _write_tokenizer(writer: gguf.GGUFWriter, config: Mapping[str, Any], directory: Path) -> None:
    tokenizer, said = _json(directory / "tokenizer.json"), _json(directory / "tokenizer_config.json")
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedArchitectureError(
            "Its tokenizer is no byte-level BPE, which is the only kind that can be converted here."
        )
    if not model.get("merges"):
        raise UnsupportedArchitectureError("Its tokenizer has no merges, and llama.cpp serves none without.")
    size = int(config["vocab_size"])
    tokens, kinds = [f"[PAD{place}]" for place in range(size)], [int(gguf.TokenType.UNUSED)] * size
    for token, place in model["vocab"].items():
        tokens[place], kinds[place] = token, int(gguf.TokenType.NORMAL)
    for added in tokenizer.get("added_tokens") or ():
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer.get("pre_tokenizer") or {}))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    places = {token: place for place, token in enumerate(tokens)}
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        place = _special(said.get(f"{role}_token"), config.get(f"{role}_token_id"), places)
        if place is not None:
            add(place)
    writer.add_add_bos_token(bool(said.get("add_bos_token", False)))
    writer.add_add_space_prefix(False)
    template = directory / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else said.get("chat_template")
    if not isinstance(text, str):
        raise UnsupportedArchitectureError(
            "It has no chat template, so nobody can say what a conversation with it looks like."
        )
    writer.add_chat_template(text)


def _special(named: Any, numbered: Any, places: Mapping[str, int]) -> int | None:
    token = named.get("content") if isinstance(named, dict) else named
    if isinstance(token, str) and token in places:
        return places[token]
    number = numbered[0] if isinstance(numbered, list) and numbered else numbered
    return number if isinstance(number, int) else None


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a tokenizer splits text before it merges byte pairs."""
    steps = described.get("pretokenizers", [described])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern", {}).get("Regex") == LLAMA_3_SPLIT:
        return "llama-bpe"
    raise UnsupportedArchitectureError(
        "Its tokenizer cuts text in a way that is not known here; known are those of GPT-2, SmolLM and Llama 3. "
        "Name a GGUF file of the model instead."
    )


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

    @property
    def written_as(self) -> type[np.floating[Any]]:
        """The type in the GGUF file. Norms stay in float32: they are few, and their errors affect everything."""
        return np.float32 if len(self.shape) == 1 else np.float16

    def read(self) -> np.ndarray[Any, np.dtype[Any]]:
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
                raise UnsupportedArchitectureError(
                    f"{file.name} holds {told['dtype']} values; known are F32, F16 and BF16."
                )
            start, end = told["data_offsets"]
            if 8 + length + end > file.stat().st_size:
                raise ValueError(f"{file.name} is cut short")
            yield Stored(name, file, 8 + length + start, tuple(told["shape"]), told["dtype"])


def _permuted(weights: np.ndarray[Any, np.dtype[Any]], heads: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the rows of q and k in llama.cpp's order.

    llama.cpp rotates neighbouring pairs; transformers rotates the halves of a head.
    """
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _json(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def main(arguments: list[str]) -> int:
    """Convert the model. Return 1 and print one sentence to stderr if the conversion fails."""
    directory, target = Path(arguments[0]), Path(arguments[1])
    try:
        convert(directory, target)
    except UnsupportedArchitectureError as error:
        sys.stderr.write(f"{error}\n")
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        sys.stderr.write(f"A file of it is missing or damaged ({type(error).__name__}: {error}).\n")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
