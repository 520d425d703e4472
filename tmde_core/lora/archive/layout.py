"""Defines which files an adapter's archive holds, and the largest size of each."""

from __future__ import annotations

from typing import Literal

from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, MANIFEST_FILE, WEIGHTS_FILE

ArchiveFormat = Literal["peft", "peft-bin", "gguf", "merged-gguf"]

ARGUMENTS_FILE = "training_args.json"
METRICS_FILE = "metrics.json"
NOTES_FILE = "NOTES.md"
PICKLE_FILE = "adapter_model.bin"

EXPORTED = (CONFIG_FILE, ARGUMENTS_FILE, METRICS_FILE, MANIFEST_FILE, WEIGHTS_FILE, GGUF_FILE)
"""Files of an exported archive in this order, after the notes. Files that the adapter does not have are left out."""

MAX_ARCHIVE_BYTES = 4 * 1024**3
"""The largest size of an archive, packed and unpacked: 4 GiB.

Exported archives are not compressed, so packed and unpacked size are almost equal, and an exported archive must be
small enough to import. An adapter of rank 128 for a model with 7 billion weights has 640 MB in 16 bits; its GGUF form
has the same size.
"""

MAX_EXPORT_BYTES = MAX_ARCHIVE_BYTES - MAX_ARCHIVE_BYTES // 1024
"""The largest size of the content of an exported archive. Storing it as gzip adds less than 0.1 %."""

MAX_BYTES = {
    WEIGHTS_FILE: 3 * 1024**3,
    GGUF_FILE: 3 * 1024**3,
    CONFIG_FILE: 1024**2,
    ARGUMENTS_FILE: 1024**2,
    METRICS_FILE: 4 * 1024**2,
    MANIFEST_FILE: 16 * 1024**2,
    NOTES_FILE: 1024**2,
}
"""File → its largest size in bytes. An import keeps the weights and the JSON files."""

MAX_OTHER_BYTES = 64 * 1024**2
"""The largest size of an ignored file, such as a model card or a tokenizer."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npz", ".npy")
"""Endings of files that can run code when they are loaded."""


def folder_name(adapter_id: object) -> str:
    """Return the name of the folder in the archive; the exported file has the same name plus an ending."""
    return f"tmde-adapter-{str(adapter_id)[:8]}"
