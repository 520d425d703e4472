"""A thinking model, served in the dialects of several servers: how a thought is sent, and how it is switched off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tmde_core.prompts import SKEPTIC_SYSTEM, SYNTHESIZER_SYSTEM
from tmde_core.testing.fake_servers.base import Call, FakeServer, Reply

__all__ = ["DIALECTS", "ThinkingServer"]

THOUGHT = "Let me see. The question is short. I check my answer once more."
ANSWER = "The answer is 42, because six times seven is 42."
ROLES = (
    (SKEPTIC_SYSTEM, '{"issues": [], "score": 9, "verdict": "accept"}'),
    (SYNTHESIZER_SYSTEM, "Six times seven is 42."),
    ('{"score": a number from 1 to 5}', '{"score": 4}'),
    ("Give only the number, from 1 to 5", "4"),
)
"""What stands in a prompt, and the answer to it, so that a whole debate and a rubric judge work. Every other prompt
gets `ANSWER`."""

DIALECTS: Mapping[str, str] = {
    "tags": "the thought stands between <think> and </think> in the content",
    "no-opening-tag": "the chat template opened the thought, so the content has only </think>",
    "reasoning_content": "the thought is in `reasoning_content` (DeepSeek, older vLLM, llama.cpp, SGLang)",
    "reasoning": "the thought is in `reasoning` (newer vLLM, Groq)",
    "both": "the thought is in `reasoning_content` and again in `reasoning`",
    "details": "the thought is in `reasoning` and again in `reasoning_details` (OpenRouter)",
    "parts": "the content is a list of parts, of which some are thoughts (Mistral)",
}
"""How the OpenAI-style chat sends the thought. The chat of Ollama always uses `message.thinking`."""


class ThinkingServer(FakeServer):
    """A thinking model behind an OpenAI-style chat and behind Ollama's API.

    Args:
        dialect: how the OpenAI-style chat sends the thought; a name of `DIALECTS`.
        obeys: whether the model stops thinking when it is asked to: with `chat_template_kwargs`, `reasoning_effort`
            or Ollama's `think`.
        refuses: whether the server refuses those switches with HTTP 400.
        thought: what the model thinks. One word is one token. A request with fewer tokens ends within the thought.
        seconds: the pause between two tokens.
    """

    MODEL = "thinking-model"

    def __init__(
        self,
        dialect: str = "tags",
        *,
        obeys: bool = True,
        refuses: bool = False,
        thought: str = THOUGHT,
        seconds: float = 0.0,
    ) -> None:
        super().__init__()
        if dialect not in DIALECTS:
            raise ValueError(f"unknown dialect {dialect!r}; there are {', '.join(DIALECTS)}")
        self.dialect = dialect
        self.obeys = obeys
        self.refuses = refuses
        self.thought = thought
        self.seconds = seconds

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        match (call.method, call.path):
            case ("GET", "/v1/models"):
                entry = {"id": self.MODEL, "object": "model", "owned_by": "someone", "max_model_len": 8192}
                await reply.json({"object": "list", "data": [entry]})
            case ("GET", "/api/version"):
                await reply.json({"version": "0.12.11"})
            case ("GET", "/api/tags"):
                await reply.json({"models": [{"name": self.MODEL, "model": self.MODEL, "size": 1, "details": None}]})
            case ("POST", "/api/show"):
                await reply.json({"capabilities": ["completion", "thinking"], "model_info": {"x.context_length": 8192}})
            case ("POST", "/v1/chat/completions"):
                await self._openai(call.body, reply)
            case ("POST", "/api/chat"):
                await self._ollama(call.body, reply)
            case _:
                await reply.json({"error": "not found"}, 404)

    async def _openai(self, body: Any, reply: Reply) -> None:
        if body["model"] != self.MODEL:
            await reply.json({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
            return
        switch = next((name for name in ("chat_template_kwargs", "reasoning_effort") if name in body), None)
        if self.refuses and switch:
            await reply.json({"error": {"message": f"Unknown parameter: '{switch}'.", "param": switch}}, 400)
            return
        template = body.get("chat_template_kwargs") or {}
        off = template.get("enable_thinking") is False or body.get("reasoning_effort") == "none"
        limit = int(body.get("max_tokens", body.get("max_completion_tokens", 512)))
        await reply.start(200, "text/event-stream")
        count = 0
        pieces, whole = self._pieces(body, off, limit, tags=self.dialect in ("tags", "no-opening-tag"))
        for text, thought in pieces:
            await self._pause(count)
            count += 1
            delta = _DELTAS[self.dialect](text, thought)
            await reply.event({"model": self.MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        end = {"index": 0, "delta": {}, "finish_reason": "stop" if count == whole else "length"}
        usage = {"prompt_tokens": 12, "completion_tokens": count, "total_tokens": 12 + count}
        await reply.event({"model": self.MODEL, "choices": [end]})
        await reply.event({"model": self.MODEL, "choices": [], "usage": usage})
        await reply.event(b"[DONE]")
        await reply.write(b"", last=True)

    async def _ollama(self, body: Any, reply: Reply) -> None:
        if self.refuses and "think" in body:
            await reply.json({"error": f'"{self.MODEL}" does not support thinking'}, 400)
            return
        limit = int(body.get("options", {}).get("num_predict", 512))
        await reply.start(200, "application/x-ndjson")
        count = 0
        pieces, whole = self._pieces(body, body.get("think") is False, limit, tags=False)
        for text, thought in pieces:
            await self._pause(count)
            count += 1
            message = {"role": "assistant", "content": text, **({"thinking": thought} if thought else {})}
            await reply.write(msgspec.json.encode({"model": self.MODEL, "message": message, "done": False}) + b"\n")
        end = {
            "model": self.MODEL,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop" if count == whole else "length",
            "prompt_eval_count": 12,
            "eval_count": count,
        }
        await reply.write(msgspec.json.encode(end) + b"\n", last=True)

    def _pieces(self, body: Any, off: bool, limit: int, *, tags: bool) -> tuple[list[tuple[str, str]], int]:
        """Return the tokens within `limit` as pairs of text and thought, and how many there would be."""
        prompt = "\n".join(message["content"] for message in body["messages"])
        answer = next((told for sign, told in ROLES if sign in prompt), ANSWER)
        thought = "" if off and self.obeys else self.thought
        thoughts = [("", piece) for piece in re.findall(r"\s*\S+", thought)]
        if thoughts and tags:
            first = [("<think>\n", "")] if self.dialect == "tags" else []
            thoughts = [*first, *((piece, "") for _, piece in thoughts), ("\n</think>\n\n", "")]
        tokens = [*thoughts, *((piece, "") for piece in re.findall(r"\s*\S+", answer))]
        return tokens[:limit], len(tokens)

    async def _pause(self, count: int) -> None:
        if count == 1 and self.hold is not None:
            await self.hold.wait()
        if self.seconds:
            await asyncio.sleep(self.seconds)


def _parts(text: str, thought: str) -> dict[str, Any]:
    if not thought:
        return {"content": [{"type": "text", "text": text}]}
    return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}]}


_DELTAS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "tags": lambda text, _: {"content": text},
    "no-opening-tag": lambda text, _: {"content": text},
    "reasoning_content": lambda text, thought: {"content": text or None, "reasoning_content": thought or None},
    "reasoning": lambda text, thought: {"content": text, "reasoning": thought},
    "both": lambda text, thought: {"content": text, "reasoning_content": thought, "reasoning": thought},
    "details": lambda text, thought: {
        "content": text,
        "reasoning": thought,
        "reasoning_details": [{"type": "reasoning.text", "text": thought}] if thought else [],
    },
    "parts": _parts,
}
