"""Small real files for the played hub: GGUF and safetensors with sound headers, and what lies beside them."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

MODEL_BYTES = 600_000


def gguf(size: int = MODEL_BYTES, *, kind: str = "model", architecture: str = "llama", seed: int = 1) -> bytes:
    """A GGUF file with one tensor of random numbers."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    count = size // 4
    entries = {"general.architecture": architecture, "general.type": kind}
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries) + 1)
    for name, value in entries.items():
        header += text(name) + struct.pack("<I", 8) + text(value)
    header += text(f"{architecture}.context_length") + struct.pack("<II", 4, 4096)
    header += text("token_embd.weight") + struct.pack("<IQIQ", 1, count, 0, 0)
    return header + random.Random(seed).randbytes(count * 4)


def safetensors(size: int = MODEL_BYTES, *, name: str = "w", dtype: str = "BF16", seed: int = 2) -> bytes:
    """A safetensors file with one tensor of random numbers."""
    width = {"BF16": 2, "F32": 4, "U8": 1}[dtype]
    count = size // width // 10
    tensor = {"dtype": dtype, "shape": [10, count], "data_offsets": [0, 10 * count * width]}
    header = json.dumps({name: tensor}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(10 * count * width)


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write the files of a repository."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def weights_repository(folder: Path) -> Path:
    """A repository as publishers make them: weights, tokenizer, and much that nobody needs."""
    return write(
        folder,
        {
            "README.md": "---\nlicense: apache-2.0\n---\n# Tiny\n",
            "LICENSE": "Apache",
            ".gitattributes": "*.safetensors filter=lfs\n",
            "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}),
            "generation_config.json": "{}",
            "tokenizer.json": "{}",
            "tokenizer_config.json": "{}",
            "chat_template.jinja": "{{ messages }}",
            "model.safetensors": safetensors(),
            "pytorch_model.bin": b"\x80\x02pickle",
            "modeling_tiny.py": "raise SystemExit",
            "onnx/model.onnx": b"onnx",
            "tf_model.h5": b"h5",
        },
    )


def gguf_repository(folder: Path, base: str = "") -> Path:
    """A repository with several quantisations and a projector."""
    front = "---\nlicense: mit\n" + (f"base_model: {base}\n" if base else "") + "---\n"
    return write(
        folder,
        {
            "README.md": front,
            "Tiny-Q4_K_M.gguf": gguf(seed=3),
            "Tiny-Q8_0.gguf": gguf(seed=4, size=800_000),
            "Tiny-Q2_K.gguf": gguf(seed=5, size=300_000),
            "mmproj-Tiny-f16.gguf": gguf(seed=6, size=10_000, kind="mmproj"),
        },
    )
