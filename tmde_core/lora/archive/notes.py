"""Writes NOTES.md, which describes an exported adapter and its use with other tools."""

from __future__ import annotations

from tmde_core.lora.archive.layout import PICKLE_FILE
from tmde_core.records.lora import Manifest
from tmde_core.records.training import MergeResult
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

The model must be the very model that the adapter was trained on.

## With Ollama, LM Studio and others

They take no adapters. Export adapter and base model as one file: `tmde lora export {manifest.id} --format merged-gguf`.
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


def render_merged_notes(manifest: Manifest, result: MergeResult, filename: str) -> str:
    """Return the text of NOTES.md for a merged model.

    Args:
        manifest: the adapter's manifest.
        result: what the merge found.
        filename: the name of the model's file.
    """
    name = filename.removesuffix(".gguf")
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(result.types.items(), key=lambda pair: -pair[1]))
    told = f", SHA-256 {manifest.base_model_sha256}" if manifest.base_model_sha256 else ""
    return "\n".join(
        [
            f"""\
# {name}

Made by TMDE: the model `{manifest.base_model}`{told}, and an adapter that learned from {manifest.traces_used} debates, in
one file. It needs nothing else. Tokenizer and chat template are those of the base model, and so is the licence: what the
base model's licence asks of you, it asks for this file too.

- file: {filename}, {result.size_bytes:,} bytes
- merged from: {result.base_file}
- adapter: {manifest.id}, made {manifest.created_at:%Y-%m-%d %H:%M} UTC, tags: {", ".join(manifest.tags) or "none"}
- tensors by type: {types}
""",
            *(f"{note}\n" for note in result.notes),
            _quality(result),
            f"""\
## With Ollama

Put this line into a file called `Modelfile` beside the model:

    FROM ./{filename}

Then run:

    ollama create {name.lower()} -f Modelfile
    ollama run {name.lower()}

Ollama reads the chat template from the file and takes the one of its own that is like it. If
`ollama show --template {name.lower()}` prints nothing but `{{{{ .Prompt }}}}`, it found none: copy the TEMPLATE and PARAMETER
lines of the base model (`ollama show --modelfile BASE`) into the Modelfile.

## With LM Studio

    lms import {filename}

Or put the file where LM Studio looks for models: `~/.lmstudio/models/tmde/{name}/{filename}`.

## With llama.cpp

    llama-server -m {filename}
""",
        ]
    )


def _quality(result: MergeResult) -> str:
    quality = result.quality
    if quality is None:
        return "## Quality\n\nNot measured.\n"
    verdict = (
        "**It is too far from what was merged**, and was exported by force:\n\n"
        + "\n".join(f"- {flaw}" for flaw in quality.flaws)
        if quality.flaws
        else "The merged model is as good as what was merged."
    )
    return f"""\
## Quality

The merged model was compared with the base model that is served with the adapter. Both answered the same simple questions,
and the probabilities of the next token were compared at {quality.positions} places in the answers.

- right answers: {quality.right_merged} of {quality.asked}, where base model and adapter gave {quality.right_apart}
- same likeliest token: {quality.same_token:.0%} of the places
- mean difference of log-probabilities: {quality.difference:.3f}; what the adapter changes is {quality.effect:.3f}

{verdict}
"""


def _file(base: str) -> str:
    """Return the probable name of the base model's GGUF file."""
    name = base.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name if name.endswith(".gguf") else f"{name}.gguf"
