"""Fakes of the servers that serve LoRA adapters: vLLM and llama-server, as they load, find, refuse and lose adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tmde_core.testing.fake_servers.base import Call, FakeServer, Reply
from tmde_core.testing.fake_servers.protocols import answer_openai, openai_error

__all__ = ["FakeLlamaServer", "FakeVllm"]

WEIGHTS = "adapter_model.safetensors"


class FakeVllm(FakeServer):
    """A fake vLLM: models and adapters by name, `/v1/load_lora_adapter`, `/tokenize`, `max_model_len`.

    Args:
        runtime_adapters: whether the server was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true. Otherwise, it has no
            path to load adapters, and its resolver is not used.
        lora: whether it was started with --enable-lora.
        resolver: VLLM_LORA_RESOLVER_CACHE_DIR; None: the server has no resolver.
        root: where the model was loaded from (`--model`), with which the resolver compares the name in an adapter's
            configuration; None: the same as `MODEL`, the served name.
        replicas: the number of servers behind the address, which answer in turn.
    """

    MODEL = "meta/tiny"

    def __init__(
        self,
        *,
        runtime_adapters: bool = True,
        lora: bool = True,
        resolver: Path | None = None,
        root: str | None = None,
        replicas: int = 1,
    ) -> None:
        super().__init__()
        self.runtime_adapters = runtime_adapters
        self.lora = lora
        self.resolver = resolver
        self.root = root or self.MODEL
        self.replicas: list[dict[str, str]] = [{} for _ in range(replicas)]
        """The adapters of each replica: the path by the name."""
        self.answered_with: list[dict[str, Any]] = []
        """The configuration of the adapter that answered, for each chat with an adapter."""

    @property
    def adapters(self) -> dict[str, str]:
        """The adapters of the replica that answers next: the path by the name."""
        return self.replicas[0]

    def restart(self) -> None:
        """Lose the adapters that were loaded, as vLLM does."""
        for adapters in self.replicas:
            adapters.clear()

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        adapters = self.replicas[0]
        self.replicas = [*self.replicas[1:], adapters]
        match (call.method, call.path):
            case ("GET", "/v1/models"):
                base = {
                    "id": self.MODEL,
                    "object": "model",
                    "owned_by": "vllm",
                    "root": self.root,
                    "parent": None,
                    "max_model_len": 2048,
                }
                extra = [{**base, "id": name, "root": path, "parent": self.MODEL} for name, path in adapters.items()]
                await reply.json({"object": "list", "data": [base, *extra]})
            case ("POST", "/v1/chat/completions"):
                await self._chat(call, reply, adapters)
            case ("POST", "/tokenize"):
                tokens = call.body["prompt"].split()
                await reply.json({"count": len(tokens), "max_model_len": 2048, "tokens": list(range(len(tokens)))})
            case ("POST", "/v1/load_lora_adapter") if self.runtime_adapters:
                await self._load(call.body, reply, adapters)
            case ("POST", "/v1/unload_lora_adapter") if self.runtime_adapters:
                name = call.body["lora_name"]
                if adapters.pop(name, None) is None:
                    text = f"The lora adapter '{name}' cannot be found."
                    await reply.json(openai_error(text, "NotFoundError", 404), 404)
                else:
                    await reply.json(f"Success: LoRA adapter '{name}' removed successfully.")
            case _:
                await reply.json({"detail": "Not Found"}, 404)

    async def _chat(self, call: Call, reply: Reply, adapters: dict[str, str]) -> None:
        model = call.body["model"]
        if model != self.MODEL and model not in adapters and self.runtime_adapters:
            found = self._resolved(model)
            if found is not None and self.lora and (found / WEIGHTS).is_file():
                adapters[model] = str(found)
            elif found is not None:
                text = f"LoRA adapter '{model}' was found but could not be loaded."
                await reply.json(openai_error(text, "BadRequestError", 400), 400)
                return
        if model not in (self.MODEL, *adapters):
            await reply.json(openai_error(f"The model `{model}` does not exist.", "NotFoundError", 404), 404)
            return
        config = Path(adapters[model]) / "adapter_config.json" if model in adapters else None
        if config is not None and config.is_file():
            self.answered_with.append(json.loads(config.read_bytes()))
        # An adapter changes the probabilities, so that a probe sees it.
        logprob = -0.4 if model in adapters else -0.1
        await answer_openai(reply, self.words(call.body["max_tokens"]), model, call, logprob)

    def _resolved(self, name: str) -> Path | None:
        """Look for an adapter in the resolver's directory, as vLLM's filesystem resolver does."""
        if self.resolver is None:
            return None
        config = self.resolver / name / "adapter_config.json"
        if not config.is_file():
            return None
        told = json.loads(config.read_bytes())
        fits = told["peft_type"] == "LORA" and told["base_model_name_or_path"] == self.root
        return self.resolver / name if fits else None

    async def _load(self, body: Any, reply: Reply, adapters: dict[str, str]) -> None:
        name, path = body["lora_name"], body["lora_path"]
        if name in adapters:
            text = f"The lora adapter '{name}' has already been loaded."
            await reply.json(openai_error(text, "InvalidUserInput", 400), 400)
        elif not self.lora:
            text = "LoRA is not enabled. Use --enable-lora to enable LoRA."
            await reply.json(openai_error(text, "InternalServerError", 500), 500)
        elif "broken" in path or "nonexistent" in path:
            text = f"Loading lora {name} failed: No adapter found for {path}"
            await reply.json(openai_error(text, "NotFoundError", 404), 404)
        else:
            adapters[name] = path
            await reply.json(f"Success: LoRA adapter '{name}' added successfully.")


class FakeLlamaServer(FakeServer):
    """A fake llama-server: `/lora-adapters` lists what `--lora` named at its start.

    Args:
        adapters: the paths of the adapters.
        lists: False for an old server without `/lora-adapters`.
    """

    MODEL = "tiny"

    def __init__(self, *adapters: str, lists: bool = True) -> None:
        super().__init__()
        self.adapters = list(adapters)
        self.lists = lists

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        match (call.method, call.path):
            case ("GET", "/v1/models"):
                entry = {"id": self.MODEL, "object": "model", "owned_by": "llamacpp"}
                await reply.json({"object": "list", "data": [entry]})
            case ("GET", "/lora-adapters") if self.lists:
                listed = [{"id": number, "path": path, "scale": 0.0} for number, path in enumerate(self.adapters)]
                await reply.json(listed)
            case ("GET", "/props"):
                await reply.json({"default_generation_settings": {"n_ctx": 2048}})
            case ("POST", "/tokenize"):
                await reply.json({"tokens": list(range(len(call.body["content"].split())))})
            case ("POST", "/v1/chat/completions"):
                await answer_openai(reply, self.words(call.body["max_tokens"]), self.MODEL, call)
            case _:
                await reply.json({"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}, 404)
