"""Define what this plugin provides. httpx is loaded only when a runtime is used."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.runtimes import Availability, ModelRuntime, RuntimeDescriptor
from tmde_runtime_http.options import OllamaSettings, OpenAISettings


def _ollama(context: PluginContext[OllamaSettings]) -> ModelRuntime:
    from tmde_runtime_http.ollama import OllamaRuntime

    return OllamaRuntime(context)


def _openai(context: PluginContext[OpenAISettings]) -> ModelRuntime:
    from tmde_runtime_http.openai import OpenAIRuntime

    return OpenAIRuntime(context)


def _ollama_availability(context: PluginContext[OllamaSettings]) -> Availability:
    from tmde_runtime_http.reach import ollama_availability

    return ollama_availability(context)


def _openai_availability(context: PluginContext[OpenAISettings]) -> Availability:
    from tmde_runtime_http.reach import openai_availability

    return openai_availability(context)


@hookimpl
def tmde_model_runtimes() -> Sequence[RuntimeDescriptor]:
    """Describe the runtimes for Ollama and for OpenAI-style servers."""
    return [
        RuntimeDescriptor(
            name="ollama",
            summary="models that Ollama serves",
            settings=OllamaSettings,
            create=_ollama,
            availability=_ollama_availability,
        ),
        RuntimeDescriptor(
            name="openai",
            summary="an OpenAI-style server: vLLM, llama-server, LM Studio and others",
            settings=OpenAISettings,
            create=_openai,
            availability=_openai_availability,
        ),
    ]
