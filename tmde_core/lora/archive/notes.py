"""Writes NOTES.md, which describes an exported adapter and its use with other tools."""

from __future__ import annotations

from tmde_core.lora.archive.layout import PICKLE_FILE
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import GGUF_FILE, WEIGHTS_FILE


def render_notes(manifest: Manifest, *, pickle: bool) -> str:
    """Return the text of NOTES.md. The same arguments always give the same text.

    Args:
        manifest: the adapter's manifest.
        pickle: the archive also holds adapter_model.bin.
    """
    base = manifest.base_model
    told = f", SHA-256 {manifest.base_model_sha256}" if manifest.base_model_sha256 else ""
    parts = [
        f"""\
# A LoRA adapter for {base}

Exported by TMDE. It changes the answers of the model `{base}`{told}, and of no other: on another one it gives gibberish.

- id: {manifest.id}
- made: {manifest.created_at:%Y-%m-%d %H:%M} UTC
- learned from {manifest.traces_used} debates
- tags: {", ".join(manifest.tags) or "none"}

`manifest.json` says all of it, with the SHA-256 of every file. To take it into another TMDE: `tmde lora import FILE`.

## With PEFT

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("path or name of {base}")
    model = PeftModel.from_pretrained(model, "this folder")
""",
    ]
    if GGUF_FILE in manifest.files:
        parts.append(
            f"""\
## With llama.cpp

    llama-server --model {_file(base)} --lora {GGUF_FILE}

## With Ollama

Put these two lines into a file called `Modelfile` in this folder, then run `ollama create tmde-{str(manifest.id)[:8]}`:

    FROM ./{_file(base)}
    ADAPTER ./{GGUF_FILE}

`FROM` must be the very model that the adapter was trained on: its GGUF file, or Ollama's name of it.
"""
        )
    if pickle:
        parts.append(
            f"""\
## {PICKLE_FILE}

The same numbers as in `{WEIGHTS_FILE}`, for tools that read nothing else. Such a file is a pickle: loading one runs the code that it
names, so load it only where you know who made it, and with `weights_only=True`. TMDE refuses archives that hold one; to carry the
adapter to another TMDE, export it in the format `peft`.
"""
        )
    return "\n".join(parts)


def _file(base: str) -> str:
    """Return the probable name of the base model's GGUF file."""
    name = base.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name if name.endswith(".gguf") else f"{name}.gguf"
