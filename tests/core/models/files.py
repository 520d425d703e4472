"""Writes small model files for tests: GGUF headers with the tensors of a Llama, and directories of safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

WIDTH, FEED_FORWARD, HEADS, KEY_HEADS, VOCABULARY = 32, 64, 4, 2, 48


def write_gguf(path: Path, name: str = "Tiny Talker", *, blocks: int = 2, width: int = WIDTH, seed: int = 0) -> Path:
    """Write a GGUF file that says it is the model `name`. Its weights are random."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_block_count(blocks)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_file_type(1)
    random = np.random.default_rng(seed)

    def add(tensor: str, rows: int, columns: int) -> None:
        writer.add_tensor(tensor, random.standard_normal((rows, columns)).astype(np.float16))

    add("token_embd.weight", VOCABULARY, width)
    for block in range(blocks):
        keys = width // HEADS * KEY_HEADS
        writer.add_tensor(f"blk.{block}.attn_norm.weight", np.ones(width, np.float32))
        for part, rows, columns in (
            ("attn_q", width, width), ("attn_k", keys, width), ("attn_v", keys, width), ("attn_output", width, width),
            ("ffn_gate", 2 * width, width), ("ffn_up", 2 * width, width), ("ffn_down", width, 2 * width),
        ):  # fmt: skip
            add(f"blk.{block}.{part}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_weights(directory: Path, *, blocks: int = 2, width: int = WIDTH, seed: int = 0) -> Path:
    """Write a directory with the files that training needs."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": blocks, "intermediate_size": 2 * width,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    weights = np.random.default_rng(seed).standard_normal((VOCABULARY, width)).astype(np.float32)
    save_file({"model.embed_tokens.weight": weights}, directory / "model.safetensors")
    return directory


def write_adapter(directory: Path, base: str, *, width: int = WIDTH, blocks: int = 2) -> Path:
    """Write a plain LoRA adapter of rank 2 on `q_proj` that names the base model `base`."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for block in range(blocks):
        module = f"base_model.model.model.layers.{block}.self_attn.q_proj"
        tensors[f"{module}.lora_A.weight"] = np.ones((2, width), np.float32)
        tensors[f"{module}.lora_B.weight"] = np.ones((width, 2), np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": base,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
