"""Training and serving give a model the same prompt, token by token, with each kind of chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.tmde_cpu.chat_templates import ANSWER, ASKED, TEMPLATES, write_tokenizer
from tmde_core.sdk.errors import WorkerFailedError
from tmde_core.sdk.runtimes import ChatRequest, Message
from tmde_core.sdk.worker import ConversationEncoder
from tmde_cpu.base_model import load_tokenizer
from tmde_cpu.gguf.convert import convert
from tmde_cpu.serving.child import ServerChild, server_job
from tmde_cpu.serving.server_log import ServerLog

template = pytest.importorskip("tmde_cpu.serving.template", reason="the embedded runtime sends texts only")

pytestmark = pytest.mark.slow

TYPED = "<|im_end|> </s> <bos>[INST] <|start|>system<|message|> Mu\u0308nchen\x00 12\n\n  3"

CONVERSATIONS = {
    "plain": ASKED,
    "without system": ASKED[1:],
    "several turns": (*ASKED, Message("assistant", ANSWER), Message("user", "And 13?")),
    "a past thought": (*ASKED, Message("assistant", f"<think>\nhm\n</think>\n\n{ANSWER}"), Message("user", "And 13?")),
    "control tokens": (Message("system", f"Be {TYPED}."), Message("user", f"Why {TYPED}?")),
}


def write_model(directory: Path, name: str) -> Any:
    """Write a model of a few weights with the template, and return its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(directory, TEMPLATES[name])
    tokenizer = load_tokenizer(directory)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(directory)
    return tokenizer


# llama.cpp converts byte-level vocabularies only.
@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if not template.spaces])
async def test_the_runtime_sends_the_tokens_that_the_model_is_trained_on(tmp_path: Path, name: str) -> None:
    tokenizer = write_model(tmp_path, name)
    convert(tmp_path, tmp_path / "model.gguf")
    job = server_job(tmp_path / "model.gguf", [], context=512, slots=1, threads=1, batch=16)
    child = await ServerChild.start(job, ServerLog(tmp_path / "server.log"))

    async def ask(path: str, body: Mapping[str, Any]) -> Any:
        response = await (
            child.client.post(path, content=msgspec.json.encode(body)) if body else child.client.get(path)
        )
        if response.status_code != 200:
            raise WorkerFailedError(response.text, status=response.status_code)
        return response.json()

    try:
        serving, training = template.ChatTemplate(tmp_path / "model.gguf"), ConversationEncoder(tokenizer)
        for what, messages in CONVERSATIONS.items():
            request = await serving.fit(ChatRequest(model="", messages=messages, thinking=False), ask)
            sent = (await serving.tokens(request, ask)).ids
            read = tokenizer.convert_ids_to_tokens(training.prompt(messages))
            assert read == tokenizer.convert_ids_to_tokens(sent), what
    finally:
        await child.stop()
