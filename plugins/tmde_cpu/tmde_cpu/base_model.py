"""Prepare the base model for training: a directory of float32 safetensors. Runs in a subprocess only.

The embedded model is a quantised GGUF. It is dequantised once into `data/models/<name>-f32/`. Any other directory with
config.json, safetensors and a tokenizer is used as it is.

The conversion runs in a process of its own. It draws random numbers and takes much memory, and the adapter and the
figures of a training run must not depend on whether its process converted the model.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from gguf import GGUFReader, TokenType
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tmde_core.sdk.environments import worker_argv
from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.files import FileLock, hash_file
from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.training import TrainingJob
from tmde_core.sdk.worker import SOURCE_FILE, BaseIdentity, TrainingFailedError, identify_base_model, load_tokenizer
from tmde_cpu.base_config import complete_config, require_readable
from tmde_cpu.base_name import resolve_base_model
from tmde_cpu.embedded import EMBEDDED_SHA256

transformers_logging.disable_progress_bar()  # the worker's log is a file

COMPOSED = frozenset({"qwen2", "qwen35"})
"""Values of `tokenizer.ggml.pre` whose tokenizers read composed letters (NFC). The runtime composes them too."""
MARKED = frozenset({TokenType.CONTROL, TokenType.USER_DEFINED})
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_SETTINGS_FILE = "tokenizer_config.json"
ADD_BOS = "add_bos_token"
END_OF_TURN = "<|im_end|>"
CONVERSION = 3
"""The version of the conversion. Raise it when a conversion gives different files, so that old directories are
converted again."""
SAME_CONVERSION: Mapping[str, int] = {EMBEDDED_SHA256: 1}
"""Hash of a GGUF → the first version that gives it the same files as the current one."""


class _Source(Record, frozen=True):
    file: str
    sha256: str
    conversion: int = 1


def ensure_base_model(data_dir: Path, name_or_path: str) -> Path:
    """Return the directory to train on. A GGUF is converted the first time, which takes half a minute.

    Only one process converts the base model.

    Args:
        data_dir: the data directory.
        name_or_path: a GGUF file or a directory of safetensors. An empty text stands for the embedded model.

    Raises:
        InvalidInputError: there is no such model, or it has the wrong format.
    """
    source = resolve_base_model(data_dir, name_or_path)
    if source.is_dir():
        return source
    target = data_dir / "models" / f"{source.stem}-f32"
    sha256 = hash_file(source)
    wanted = _Source(file=source.name, sha256=sha256, conversion=SAME_CONVERSION.get(sha256, CONVERSION))
    if _marker(target) == wanted:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock.acquire(target.parent / f".{target.name}.lock"):
        if _marker(target) != wanted:
            _replace(target, source, wanted)
    return target


def _replace(target: Path, source: Path, wanted: _Source) -> None:
    """Convert into a temporary directory and replace the existing directory with it."""
    for abandoned in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # from a killed process: half a gigabyte
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, building)
        (building / SOURCE_FILE).write_bytes(to_json(wanted))
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def base_name(job: TrainingJob) -> str:
    """Return the name of a job's base model for the manifest; empty if the files name it."""
    if job.base_model_name or Path(job.base_model).is_absolute():
        return job.base_model_name
    return job.base_model


def identify(directory: Path, name: str) -> BaseIdentity:
    """Return the manifest's description of the base model: hashes of weights, tokenizer and chat template.

    For a converted GGUF, the hash of the weights is that of the GGUF, because the runtime serves this file.
    """
    return identify_base_model(directory, name, load_tokenizer(directory).chat_template)


def _convert(source: Path, target: Path) -> None:
    """Convert in a separate process. Its output goes to the log of this process, line by line, as a sign of life."""
    last = "it gave no reason"
    with subprocess.Popen(
        worker_argv("tmde_cpu", "tmde_cpu.base_model", str(source), str(target)),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                last = line.strip() or last
            status = process.wait()
        except BaseException:  # a cancelled run, for example, must not leave the process behind
            process.kill()
            raise
    if not status:
        return
    if status == -signal.SIGKILL or last.startswith("MemoryError") or "out of memory" in last.lower():
        raise MemoryError(f"There is not enough memory to convert {source.name}.")
    if "no space left on device" in last.lower():
        raise OSError(errno.ENOSPC, last)
    raise TrainingFailedError(
        "bad-base-model", f"The base model {source.name} cannot be converted for training: {last}"
    )


def _convert_here(source: Path, target: Path) -> None:
    model = GGUFReader(source)
    require_readable(model)
    _convert_tokenizer(source, target)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    complete_config(config, model)
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, config=config, dtype=torch.float32, local_files_only=True
    )
    # A model read from GGUF still counts as quantised and cannot be saved. A new one of the same shape can be saved.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(target)


def _convert_tokenizer(source: Path, target: Path) -> None:
    """Save the GGUF's tokenizer so that it splits text in the same way as llama.cpp with the same file."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    model = GGUFReader(source)
    field = model.get_field("tokenizer.ggml.pre")
    kind = None if field is None else field.contents()
    if kind == "smollm":
        # transformers ignores this key. Without the digits rule, "\n\n12" and "  12" become other tokens than in the
        # runtime, and the model would be trained on text that it never sees.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    if kind in COMPOSED:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    if END_OF_TURN in (tokenizer.chat_template or "") and tokenizer.convert_tokens_to_ids(END_OF_TURN) is not None:
        tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    tokenizer.save_pretrained(target)
    _name_marked_tokens(target / TOKENIZER_FILE, model)
    settings = {**_settings(target), ADD_BOS: _adds_bos(model)}
    (target / TOKENIZER_SETTINGS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")


def _name_marked_tokens(file: Path, model: GGUFReader) -> None:
    """Give the tokenizer the GGUF's control and user-defined tokens with their own ids.

    transformers skips a control token that is not written in the letters of a byte-level vocabulary, such as those of
    DeepSeek. It gives the end token an id behind the vocabulary instead, which the model does not have.
    """
    tokens, kinds = model.get_field("tokenizer.ggml.tokens"), model.get_field("tokenizer.ggml.token_type")
    if tokens is None or kinds is None:
        return
    texts: list[str] = tokens.contents()
    described = msgspec.json.decode(file.read_bytes())
    added = {token["content"]: token for token in described["added_tokens"] if token["id"] < len(texts)}
    vocabulary = described["model"]["vocab"]
    spelled = {place: text for text, place in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    merged = {"".join(pair) for pair in described["model"].get("merges") or ()}  # these must keep their names
    for place, (text, kind) in enumerate(zip(texts, kinds.contents(), strict=True)):
        if kind not in MARKED or text in added or place not in spelled or spelled[place] in merged:
            continue
        del vocabulary[spelled[place]]
        vocabulary[text] = place
        added[text] = {
            "id": place,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == TokenType.CONTROL,
        }
    if list(added.values()) == described["added_tokens"]:
        return  # the file keeps its hash
    described["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
    Tokenizer.from_str(json.dumps(described)).save(str(file))


def _adds_bos(model: GGUFReader) -> bool:
    """Return whether llama.cpp puts the begin token before a prompt that does not begin with it."""
    field = model.get_field("tokenizer.ggml.add_bos_token")
    if field is not None:
        return bool(field.contents())
    kind = model.get_field("tokenizer.ggml.model")
    return kind is not None and kind.contents() == "llama"


def _settings(directory: Path) -> dict[str, Any]:
    file = directory / TOKENIZER_SETTINGS_FILE
    found: dict[str, Any] = msgspec.json.decode(file.read_bytes()) if file.is_file() else {}
    return found


def _marker(directory: Path) -> _Source | None:
    try:
        return from_json((directory / SOURCE_FILE).read_bytes(), _Source)
    except (OSError, InvalidInputError):
        return None


if __name__ == "__main__":
    _convert_here(Path(sys.argv[1]), Path(sys.argv[2]))
