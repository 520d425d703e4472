"""Makes a tiny random model of each family with a tokenizer of its kind, and adapters for it. Runs in a subprocess only.

    python tiny_families.py make DIRECTORY
    python tiny_families.py read DIRECTORY

`make`: each model goes to `DIRECTORY/FAMILY/model`, each adapter to `DIRECTORY/FAMILY/ADAPTER`. The output is a JSON object:
family → `ids`, the prompt; `logits`, what transformers and PEFT compute after it, by adapter (`base` for none); and
`tokens`, the tokens of `STRINGS`. `read` reads each `DIRECTORY/FAMILY/model.gguf` as for training, and tells the logits of
the base model and the tokens, or `refused`, the reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.gemma3 import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.mistral import MistralConfig, MistralForCausalLM
from transformers.models.phi3 import Phi3Config, Phi3ForCausalLM
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM
from transformers.models.smollm3 import SmolLM3Config, SmolLM3ForCausalLM

from tmde_cpu import base_model
from tmde_cpu.gguf.tokenizer import SPLITS

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
STRINGS = (
    "What is 7 times 88?",
    "a  3.14\n\n12 x12y",
    "Don't  stop\n\nit's 3.14 ",
    "1,234.50 € ½ ²3",
    "日本語  12\t\tx",
    "HTTPServer runs iOS and theThing",
)
TEXT = [
    "What is the answer to the question that the teacher asked? It is 42, as everybody knows; don't stop thinking.",
    "The quick brown fox jumps over the lazy dog, and then it's the dog that runs after the fox through the forest.",
    "A server answers requests. An adapter changes the answers. The base model stays what it was: 12 layers, 3.14.",
] * 4
PROMPT_LENGTH = 48
"""Longer than the sliding windows below, and long enough for rotary positions to matter."""
BEGIN, END = 1, 4

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END,
}  # fmt: skip
SCALED: dict[str, Any] = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.3, 1.7, 2.5, 3.0, 4.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "original_max_position_embeddings": 2048,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}

Make = Callable[[int], Any]
FAMILIES: dict[str, tuple[str, Make]] = {
    "llama": ("llama-bpe", lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **SHAPE))),
    "llama-3.2": (
        "llama-bpe",
        lambda size: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size, **SHAPE, rope_parameters=SCALED, tie_word_embeddings=True, head_dim=32, attention_bias=True
            )
        ),
    ),
    "mistral": (
        "pieces-spaced",
        lambda size: MistralForCausalLM(MistralConfig(vocab_size=size, **SHAPE, head_dim=32, sliding_window=None)),
    ),
    "qwen2": (
        "qwen2",
        lambda size: Qwen2ForCausalLM(Qwen2Config(vocab_size=size, **SHAPE, tie_word_embeddings=True)),
    ),
    "qwen2-yarn": ("qwen2", lambda size: Qwen2ForCausalLM(Qwen2Config(vocab_size=size, **SHAPE, rope_parameters=YARN))),
    "qwen3": ("qwen2", lambda size: Qwen3ForCausalLM(Qwen3Config(vocab_size=size, **SHAPE, head_dim=32))),
    "smollm3": (
        "llama-bpe",
        lambda size: SmolLM3ForCausalLM(
            SmolLM3Config(vocab_size=size, **{**SHAPE, "num_hidden_layers": 5}, tie_word_embeddings=True)
        ),
    ),
    "gemma3": (
        "pieces",
        lambda size: Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=size, **{**SHAPE, "num_hidden_layers": 7}, head_dim=32, query_pre_attn_scalar=32, sliding_window=16
            )
        ),
    ),
    "phi3": (
        "pieces-spaced",
        lambda size: Phi3ForCausalLM(Phi3Config(vocab_size=size, **SHAPE, original_max_position_embeddings=4096)),
    ),
    "phi-4-mini": (
        "gpt-4o",
        lambda size: Phi3ForCausalLM(
            Phi3Config(
                vocab_size=size, **SHAPE, tie_word_embeddings=True, rope_parameters=LONG,
                original_max_position_embeddings=2048, sliding_window=262_144,
            )
        ),
    ),
}  # fmt: skip
"""Family → the kind of its tokenizer, and what makes the model for a size of the vocabulary."""

PHI_TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 16, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 4, "lora_alpha": 6,
        "rank_pattern": {r"layers.0.*(o_proj|qkv_proj)": 8, "down_proj": 2},
        "alpha_pattern": {r"^model\.layers\.1\.self_attn\.o_proj": 24, "down_proj": 1},
    },
}  # fmt: skip


def tokenizer_of(kind: str) -> Tokenizer:
    """A tokenizer with some merges, of the kind that the family has."""
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    if kind.startswith("pieces"):
        return _pieces(spaced=kind == "pieces-spaced")
    pattern = next(pattern for pattern, name in SPLITS.items() if name == kind)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _pieces(*, spaced: bool) -> Tokenizer:
    """The BPE of sentencepiece: spaces are letters, and unknown letters are spelled in bytes."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁[^▁]*"), behavior="isolated")
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=200, special_tokens=list(SPECIAL)))
    model = json.loads(trained.to_str())["model"]
    order = [*SPECIAL, *(f"<0x{number:02X}>" for number in range(256))]
    order += [token for token, _ in sorted(model["vocab"].items(), key=lambda pair: pair[1]) if token not in SPECIAL]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: place for place, token in enumerate(order)},
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    before = [normalizers.Prepend("▁")] if spaced else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def draw(model: Any) -> None:
    """Draw every weight, so that norms and biases matter too."""
    draws = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight += 0.3 * torch.randn(weight.shape, generator=draws)
            else:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=draws))
            assert torch.isfinite(weight).all(), name


def adapted(model: Any, fields: dict[str, Any]) -> Any:
    """The model with an adapter whose A and B are both drawn."""
    fused = any(name.endswith("qkv_proj") for name, _ in model.named_modules())
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=PHI_TARGETS if fused else TARGETS, **fields)
    made = get_peft_model(model, config)
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=draws))
    return made.eval()


def make(family: str, directory: Path) -> dict[str, Any]:
    """Make one family, and compute with it."""
    kind, create = FAMILIES[family]
    tokenizer = tokenizer_of(kind)
    size = tokenizer.get_vocab_size() + 3  # rows for tokens that nobody has, as real models have them
    torch.manual_seed(0)
    model = create(size)
    draw(model)
    model.eval().save_pretrained(directory / "model")
    tokenizer.save(str(directory / "model" / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<unk>",
        "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (directory / "model" / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    ids = [BEGIN, *torch.randint(5, size - 3, (PROMPT_LENGTH,), generator=torch.Generator().manual_seed(5)).tolist()]
    with torch.no_grad():
        logits = {"base": model(torch.tensor([ids])).logits[0, -1].tolist()}
        for name, fields in ADAPTERS.items():
            made = adapted(model, fields)
            made.save_pretrained(str(directory / name))
            logits[name] = made(torch.tensor([ids])).logits[0, -1].tolist()
            model = made.unload()
    loaded = AutoTokenizer.from_pretrained(directory / "model")
    tokens = [loaded.encode(text, add_special_tokens=False) for text in STRINGS]
    return {"ids": ids, "logits": logits, "tokens": tokens}


def read(directory: Path, ids: list[int]) -> dict[str, Any]:
    """Read a family's GGUF file, and compute with what was read."""
    target = directory / "read"
    try:
        base_model._convert_here(directory / "model.gguf", target)
    except ValueError as error:
        return {"refused": str(error)}
    loaded = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].tolist()
    return {"logits": logits, "tokens": [loaded.encode(text, add_special_tokens=False) for text in STRINGS]}


def main() -> None:
    """Make or read the families, and tell what was computed."""
    what, directory = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        told = {name: make(name, directory / name) for name in FAMILIES}
        (directory / "ids.json").write_text(json.dumps({name: one["ids"] for name, one in told.items()}))
    else:
        ids = json.loads((directory / "ids.json").read_text())
        told = {name: read(directory / name, ids[name]) for name in FAMILIES}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
