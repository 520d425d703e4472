"""Small copies of the public behaviour of well-known chat templates, and tokenizers with the tokens that they use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tmde_core.sdk.runtimes import Message


class Template(NamedTuple):
    """A chat template, the tokens that it needs, and what it makes of the conversation in `ASKED`."""

    source: str
    special: tuple[str, ...]
    eos: str
    prompt: str
    """The prompt without thinking."""
    end: str
    """What is learned after the answer."""
    added: tuple[str, ...] = ()
    """Added tokens that the tokenizer does not call special."""
    lead: str = ""
    """What is learned before the answer."""
    spaces: bool = False
    """Whether the tokenizer is one of SentencePiece's kind, which puts a blank before each text."""


ASKED = (Message("system", "Be brief."), Message("user", "Why 12?"))
ANSWER = "Because it is so."

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ content }}<|im_end|>\n"
    "{% else %}<|im_start|>assistant\n{{ content }}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

QWEN3_THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)

DEEPSEEK_R1 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}"
    "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}{% endif %}{% if m['role'] == 'assistant' %}"
    "{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "<｜Assistant｜>{{ content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

MISTRAL_V7 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'] }}[/SYSTEM_PROMPT]"
    "{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)

LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

PHI_3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)

ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }} {% elif m['role'] == 'user' %}USER: {{ m['content'] }} "
    "{% else %}ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)

HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m['content'] }}{% if m['role'] == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML_PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy 12?<|im_end|>\n<|im_start|>assistant\n"
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

TEMPLATES: dict[str, Template] = {
    "chatml": Template(CHATML, _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT, "<|im_end|>"),
    "chatml with another end token": Template(CHATML, _CHATML_TOKENS, "<|endoftext|>", _CHATML_PROMPT, "<|im_end|>"),
    "chatml with ordinary tokens": Template(
        CHATML, ("</s>",), "</s>", _CHATML_PROMPT, "<|im_end|>", added=("<|im_start|>", "<|im_end|>")
    ),
    "qwen3": Template(
        QWEN3, _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT + _EMPTY_THOUGHT, "<|im_end|>", added=("<think>", "</think>")
    ),
    "qwen3 thinking": Template(
        QWEN3_THINKING, _CHATML_TOKENS, "<|im_end|>", _CHATML_PROMPT + _EMPTY_THOUGHT, "<|im_end|>",
        added=("<think>", "</think>"),
    ),
    "deepseek r1": Template(
        DEEPSEEK_R1,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Why 12?<｜Assistant｜>" + _EMPTY_THOUGHT,
        "<｜end▁of▁sentence｜>",
        added=("<think>", "</think>"),
    ),
    "gemma": Template(
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<bos><start_of_turn>user\nBe brief.\n\nWhy 12?<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "mistral": Template(
        MISTRAL, ("<s>", "</s>"), "</s>", "<s>[INST] Be brief.\n\nWhy 12? [/INST]", "</s>", lead=" ", spaces=True
    ),
    "mistral with marks": Template(
        MISTRAL_V7,
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "</s>",
        "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Why 12?[/INST]",
        "</s>",
    ),
    "llama 3": Template(
        LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy 12?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "phi 3": Template(
        PHI_3,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhy 12?<|end|>\n<|assistant|>\n",
        "<|end|>",
        spaces=True,
    ),
    "zephyr": Template(
        ZEPHYR, ("<s>", "</s>"), "</s>", "<|system|>\nBe brief.</s>\n<|user|>\nWhy 12?</s>\n<|assistant|>\n", "</s>",
        spaces=True,
    ),
    "vicuna": Template(
        VICUNA, ("<s>", "</s>"), "</s>", "Be brief. USER: Why 12? ASSISTANT:", "</s>", lead=" ", spaces=True
    ),
    "alpaca": Template(
        ALPACA, ("<s>", "</s>"), "</s>", "### Instruction:\nBe brief.\n\nWhy 12?\n\n### Response:\n", "</s>"
    ),
    "harmony": Template(
        HARMONY,
        ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"),
        "<|return|>",
        "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Why 12?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
}  # fmt: skip


def write_tokenizer(directory: Path, template: Template) -> None:
    """Write a tokenizer with the template's tokens, and the template. Any text can be written with its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Be", "Because", "ca", "us", "it", "is", "so", "th", "in", "<|", "|>", "im", "te", "xt", "\n\n")
    if template.spaces:
        letters = [chr(code) for code in range(32, 127)] + ["▁", "\n"]
        vocabulary = {
            token: place
            for place, token in enumerate(
                dict.fromkeys((*template.special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters))
            )
        }
        tokenizer = Tokenizer(_merged(models, vocabulary, [f"▁{word}" for word in words] + list(words)))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        vocabulary = {token: place for place, token in enumerate((*template.special, *alphabet))}
        shown = [word.replace("\n", "Ċ") for word in words]
        tokenizer = Tokenizer(_merged(models, vocabulary, shown + [f"Ġ{word}" for word in shown]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in template.special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in template.added])
    tokenizer.save(str(directory / "tokenizer.json"))
    bos = {"bos_token": template.special[0]} if template.special[0] != template.eos else {}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": template.eos,
        "pad_token": template.eos,
        "chat_template": template.source,
        "clean_up_tokenization_spaces": False,
        **bos,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _merged(models, vocabulary: dict[str, int], words: list[str]):  # type: ignore[no-untyped-def]
    """Return a BPE model that merges the letters of each word from the left."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        whole = word[0]
        for letter in word[1:]:
            merges[whole, letter] = None
            whole += letter
            vocabulary.setdefault(whole, len(vocabulary))
    return models.BPE(vocab=vocabulary, merges=list(merges), byte_fallback="<0x00>" in vocabulary)
