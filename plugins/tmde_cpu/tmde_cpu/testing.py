"""What tests of training and serving need: a tiny model, and a stand-in for the program `llama-server`.

The model has a few thousand parameters, so that tests run in seconds. `python -m tmde_cpu.testing DIRECTORY` writes a
Llama model with random weights, a byte-level tokenizer and a chat template. `FineTuneConfig.base_model` may name this
directory. The model learns, although nothing useful.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tmde_cpu.testing_server import LlamaServerFile, write_llama_server

__all__ = ["LlamaServerFile", "make_tiny_model", "write_llama_server"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tiny_model(path: Path) -> Path:
    """Write the tiny model to `path` in a separate process, so that the caller never imports torch."""
    subprocess.run([sys.executable, "-m", "tmde_cpu.testing", str(path)], check=True, capture_output=True)
    return path


def _write_tiny_model(path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    path.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=vocabulary["<|im_start|>"],
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|im_end|>"],
    )
    LlamaForCausalLM(config).save_pretrained(path)


if __name__ == "__main__":
    _write_tiny_model(Path(sys.argv[1]))
