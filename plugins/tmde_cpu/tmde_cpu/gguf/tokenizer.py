"""Write a tokenizer of the Hugging Face kind (tokenizer.json) into a GGUF file. Runs in a subprocess only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec

from tmde_cpu.gguf.families import UnsupportedModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

SPLITS: Mapping[str, str] = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}": "qwen2",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
        rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
    ): "gpt-4o",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
        rf"\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
    ): "tekken",
}
"""The pattern that splits text before byte pairs are merged → llama.cpp's name for it. The patterns are those of Llama 3,
Qwen 2 and 3, GPT-4o (Phi-4-mini) and Mistral."""

SPACE = "▁"
"""Stands for a space in the vocabularies of sentencepiece."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def write_tokenizer(writer: gguf.GGUFWriter, config: Mapping[str, Any], directory: Path) -> None:
    """Write vocabulary, special tokens and chat template of the model in `directory`.

    Raises:
        UnsupportedModelError: the kind of tokenizer is not known here, or there is no chat template.
        OSError, KeyError, ValueError: a file is missing or damaged.
    """
    tokenizer, said = _json(directory / "tokenizer.json"), _json(directory / "tokenizer_config.json")
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise UnsupportedModelError("Its tokenizer is no BPE, which is the only kind that can be converted here.")
    if not model.get("merges"):
        raise UnsupportedModelError("Its tokenizer has no merges, and llama.cpp serves none without.")
    size = int(config["vocab_size"])
    tokens, kinds = [f"[PAD{place}]" for place in range(size)], [int(gguf.TokenType.UNUSED)] * size
    for token, place in model["vocab"].items():
        tokens[place], kinds[place] = token, int(gguf.TokenType.NORMAL)
    spelled_in_bytes = bool(model.get("byte_fallback"))
    if spelled_in_bytes:
        for token, place in model["vocab"].items():
            if _BYTE.fullmatch(token):
                kinds[place] = int(gguf.TokenType.BYTE)
    for added in tokenizer.get("added_tokens") or ():
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if spelled_in_bytes:
        _write_pieces(writer, tokenizer, tokens, kinds, pairs)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(tokenizer.get("pre_tokenizer") or {}))
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(pairs)
        writer.add_add_space_prefix(False)
    _write_special(writer, config, said, tokens)
    template = directory / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else said.get("chat_template")
    if not isinstance(text, str):
        raise UnsupportedModelError(
            "It has no chat template, so nobody can say what a conversation with it looks like."
        )
    writer.add_chat_template(text)


def _write_pieces(
    writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any], tokens: list[str], kinds: list[int], pairs: list[str]
) -> None:
    """Write a vocabulary of sentencepiece's BPE, as Gemma, Mistral and Phi-3 have it.

    llama.cpp merges the pair whose result has the highest score. The merges are listed in this order, so a piece's
    place in the list is its score.
    """
    scores = [0.0] * len(tokens)
    places = {token: place for place, token in enumerate(tokens)}
    for rank, pair in reversed(list(enumerate(pairs))):  # the first merge that makes a piece decides
        place = places.get(pair.replace(" ", "", 1))
        if place is not None:
            scores[place] = -float(rank + 1)
    least = -float(len(pairs) + 1)
    scores = [
        score or least if kind == gguf.TokenType.NORMAL else 0.0 for score, kind in zip(scores, kinds, strict=True)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(_begins_with_space(tokenizer))


def _begins_with_space(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a space is put before a text.

    Raises:
        UnsupportedModelError: text is prepared in a way that llama.cpp does not know.
    """
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = _steps(normalizer, "normalizers")
    others = [step for step in steps if not _replaces_space(step) and step.get("type") != "Prepend"]
    before = [step for step in steps if step.get("type") == "Prepend"]
    cuts = _steps(splitter, "pretokenizers")
    spaced = [step for step in cuts if step.get("type") == "Metaspace"]
    foreign = [step for step in cuts if step not in spaced and not _cuts_at_space(step)]
    if others or foreign or any(step.get("prepend") != SPACE for step in before):
        raise UnsupportedModelError(
            "Its tokenizer prepares text in a way that is not known here. Name a GGUF file of the model instead."
        )
    return bool(before) or any(step.get("prepend_scheme", "always") != "never" for step in spaced)


def _steps(described: Any, several: str) -> list[Mapping[str, Any]]:
    return list(described.get(several, [described])) if described else []


def _replaces_space(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE


def _cuts_at_space(step: Mapping[str, Any]) -> bool:
    """Return whether a step cuts at spaces that are no spaces any more: then it does nothing."""
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _write_special(
    writer: gguf.GGUFWriter, config: Mapping[str, Any], said: Mapping[str, Any], tokens: list[str]
) -> None:
    places = {token: place for place, token in enumerate(tokens)}
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        place = _special(said.get(f"{role}_token"), config.get(f"{role}_token_id"), places)
        if place is not None:
            add(place)
    writer.add_add_bos_token(bool(said.get("add_bos_token", False)))


def _special(named: Any, numbered: Any, places: Mapping[str, int]) -> int | None:
    token = named.get("content") if isinstance(named, dict) else named
    if isinstance(token, str) and token in places:
        return places[token]
    number = numbered[0] if isinstance(numbered, list) and numbered else numbered
    return number if isinstance(number, int) else None


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a tokenizer splits text before it merges byte pairs."""
    steps = described.get("pretokenizers", [described])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        known = SPLITS.get(steps[0].get("pattern", {}).get("Regex"))
        if known is not None:
            return known
    raise UnsupportedModelError(
        "Its tokenizer cuts text in a way that is not known here; known are those of GPT-2, SmolLM, Llama 3, Qwen 2, "
        "GPT-4o and Mistral. Name a GGUF file of the model instead."
    )


def _json(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())
