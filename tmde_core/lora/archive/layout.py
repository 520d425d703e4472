"""What an adapter's archive holds, and how large each part may be."""

from __future__ import annotations

from typing import Literal

from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, MANIFEST_FILE, WEIGHTS_FILE

Format = Literal["peft", "peft-bin", "gguf"]

ARGUMENTS_FILE = "training_args.json"
METRICS_FILE = "metrics.json"
NOTES_FILE = "NOTES.md"
PICKLE_FILE = "adapter_model.bin"

EXPORTED = (CONFIG_FILE, ARGUMENTS_FILE, METRICS_FILE, MANIFEST_FILE, WEIGHTS_FILE, GGUF_FILE)
"""In this order, after the notes; what an adapter lacks is left out."""

MAX_ARCHIVE_BYTES = 4 * 1024**3
"""Packed, and unpacked too: what TMDE exports is stored, not compressed, and must come back. An adapter of rank 128 for a model of 7
billion weights has 640 MB in 16 bits; its served form is as large again."""

MAX_EXPORT_BYTES = MAX_ARCHIVE_BYTES - MAX_ARCHIVE_BYTES // 1024
"""Of what an exported archive holds: gzip adds less than a thousandth to what it stores."""

MAX_BYTES = {
    WEIGHTS_FILE: 3 * 1024**3,
    GGUF_FILE: 3 * 1024**3,
    CONFIG_FILE: 1024**2,
    ARGUMENTS_FILE: 1024**2,
    METRICS_FILE: 4 * 1024**2,
    MANIFEST_FILE: 16 * 1024**2,
    NOTES_FILE: 1024**2,
}
"""File → its largest size. Of these, the weights and the JSON files are kept."""

MAX_OTHER_BYTES = 64 * 1024**2
"""Of a file that is passed over: model cards, tokenizers."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npz", ".npy")
"""Endings of files that run code when they are loaded, or may."""


def folder_of(adapter_id: object) -> str:
    """The folder in the archive, and the name of the exported file without its ending."""
    return f"tmde-adapter-{str(adapter_id)[:8]}"
