"""The base model in the form that training needs: a directory of float32 safetensors. Runs in a subprocess only.

The embedded model is a quantised GGUF. It is dequantised once into `data/models/<name>-f32/`; any other directory
that holds config.json, safetensors and a tokenizer is taken as it is.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.files import FileLock, sha256_of
from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.worker import BaseIdentity, TrainingFailedError
from tmde_cpu.base_name import resolve_base_model

MARKER_FILE = "tmde-source.json"
"""Its presence says that the directory is complete; it names the GGUF that the weights came from."""

transformers_logging.disable_progress_bar()  # the worker's log is a file

END_OF_TURN = "<|im_end|>"
CONVERSION = 1
"""Raised whenever converting would now give different files, so that old directories are made anew."""


class _Source(Record, frozen=True):
    file: str
    sha256: str
    conversion: int = CONVERSION


def ensure_base_model(data_dir: Path, name_or_path: str) -> Path:
    """The directory to train on; converts a GGUF the first time, which takes half a minute. Of several processes one does it.

    Args:
        name_or_path: empty for the embedded model; else a GGUF file or a directory of safetensors.

    Raises:
        InvalidInputError: there is no such model, or it has the wrong form.
    """
    source = resolve_base_model(data_dir, name_or_path)
    if source.is_dir():
        return source
    target = data_dir / "models" / f"{source.stem}-f32"
    wanted = _Source(file=source.name, sha256=sha256_of(source))
    if _marker(target) == wanted:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock.acquire(target.parent / f".{target.name}.lock"):
        if _marker(target) != wanted:
            _replace(target, source, wanted)
    return target


def _replace(target: Path, source: Path, wanted: _Source) -> None:
    """Convert into a directory beside, and put it in the place of what is there."""
    for abandoned in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # by a process that was killed: half a gigabyte
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, building)
        (building / MARKER_FILE).write_bytes(to_json(wanted))
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def identify(directory: Path, name: str) -> BaseIdentity:
    """What the manifest says of the base: hashes of weights, tokenizer and chat template.

    For a converted GGUF the weights' hash is that of the GGUF, because that is the file the runtime serves.
    """
    marker = _marker(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if marker is not None:
        model_sha256 = marker.sha256
    elif len(weights) == 1:
        model_sha256 = sha256_of(weights[0])
    else:
        model_sha256 = _hash_text("".join(f"{file.name} {sha256_of(file)}\n" for file in weights))
    template = load_tokenizer(directory).chat_template
    return BaseIdentity(
        name=name or (Path(marker.file).stem if marker else directory.name),
        model_sha256=model_sha256,
        tokenizer_sha256=sha256_of(directory / "tokenizer.json"),
        chat_template_sha256=_hash_text(template) if isinstance(template, str) else None,
    )


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a base model directory.

    Raises:
        TrainingFailedError: it has no chat template, so nobody can say what a conversation looks like.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if not tokenizer.chat_template:
        raise TrainingFailedError(
            "no-chat-template", f"The base model {directory} has no chat template. Choose another."
        )
    return tokenizer


def _convert(source: Path, target: Path) -> None:
    _convert_tokenizer(source, target)
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    # A model read from GGUF still counts as quantised and refuses to be saved. A fresh one of the same shape does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(target)


def _convert_tokenizer(source: Path, target: Path) -> None:
    """Save the GGUF's tokenizer such that it cuts text as llama.cpp does with the same file."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        # transformers ignores this key: without the digits rule "\n\n12" and "  12" become other tokens than the
        # runtime's, so the model would be taught on text that it never sees.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    if END_OF_TURN in (tokenizer.chat_template or "") and tokenizer.convert_tokens_to_ids(END_OF_TURN) is not None:
        tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    tokenizer.save_pretrained(target)


def _marker(directory: Path) -> _Source | None:
    try:
        return from_json((directory / MARKER_FILE).read_bytes(), _Source)
    except (OSError, InvalidInputError):
        return None


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
