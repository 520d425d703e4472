"""Define the settings tables `[runtimes.ollama]` and `[runtimes.openai]`, which are read strictly."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from tmde_core.sdk.context import PluginSettings
from tmde_core.sdk.errors import InvalidInputError

Flavor = Literal["auto", "vllm", "llama-server", "lm-studio", "generic"]
AdapterWay = Literal["auto", "directory", "api", "none"]
Seconds = Annotated[float, Meta(gt=0, le=3600, extra={"unit": "seconds"})]

OLLAMA_URL = "http://127.0.0.1:11434"
"""Ollama's default address."""


class HttpSettings(PluginSettings, frozen=True, kw_only=True):
    """The settings that both runtimes share. Times are in seconds."""

    base_url: Annotated[str, Meta(title="Address", description="Where the server listens.")] = ""
    model: Annotated[
        str,
        Meta(
            title="Default model",
            description="Used where a role names none; empty: the first that the server lists and that can chat.",
        ),
    ] = ""
    context_length: Annotated[
        int,
        Meta(
            ge=256,
            le=10_000_000,
            title="Context",
            description="Tokens of context, where the server does not tell.",
            extra={"unit": "tokens"},
        ),
    ] = 4096
    connect_timeout: Annotated[Seconds, Meta(title="Time to connect", description="For making the connection.")] = 5.0
    first_token_timeout: Annotated[
        Seconds,
        Meta(
            title="Time to the first token",
            description="From sending a request to its first token: covers loading the model and reading the prompt.",
        ),
    ] = 120.0
    token_timeout: Annotated[
        Seconds, Meta(title="Time between tokens", description="Longest silence between two tokens.")
    ] = 60.0
    retries: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            title="Further attempts",
            description="Further attempts when the server is away or busy, or the connection breaks, before the first token only.",
        ),
    ] = 3

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "base_url", _plain_url(self.base_url))


class OllamaSettings(HttpSettings, frozen=True, kw_only=True):
    """The settings table `[runtimes.ollama]`."""

    base_url: Annotated[str, Meta(title="Address", description="Where Ollama listens.")] = OLLAMA_URL
    keep_alive: Annotated[
        str,
        Meta(
            pattern=r"^(-1|0|\d+(ms|s|m|h))$",
            title="Time in memory",
            description="How long Ollama keeps the model in memory afterwards; `-1` for ever.",
        ),
    ] = "5m"


class OpenAISettings(HttpSettings, frozen=True, kw_only=True):
    """The settings table `[runtimes.openai]`."""

    base_url: Annotated[
        str,
        Meta(
            title="Address",
            description="The server's address, such as `http://127.0.0.1:8000`. It must be set.",
        ),
    ] = ""
    api_key: Annotated[str, Meta(title="Key", description="The key, where the server wants one.")] = ""
    api_key_env: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
            title="Variable with the key",
            description="Better: the name of the environment variable that holds the key.",
        ),
    ] = ""
    flavor: Annotated[
        Flavor,
        Meta(
            title="Kind of server",
            description="What kind of server it is; decides how adapters are loaded.",
        ),
    ] = "auto"
    adapters: Annotated[
        AdapterWay,
        Meta(
            title="Adapters",
            description=(
                "How adapters reach vLLM: `directory`, by its filesystem LoRA resolver; `api`, by `/v1/load_lora_adapter`. `auto`: "
                "the directory if the server looks into it, else the API. `none`: no server gets an adapter."
            ),
        ),
    ] = "auto"
    adapters_dir: Annotated[
        str,
        Meta(
            title="Directory of adapters",
            description=(
                "The directory of vLLM's resolver, as TMDE sees it. Empty: `served-adapters` in the data directory."
            ),
        ),
    ] = ""
    json_schema: Annotated[
        bool | None,
        Meta(title="JSON schemas", description="Whether the server enforces JSON schemas; unset: by its flavor."),
    ] = None
    logprobs: Annotated[
        bool | None,
        Meta(
            title="Token probabilities",
            description="Whether the server reports token probabilities; unset: by its flavor.",
        ),
    ] = None

    def key(self, environ: Mapping[str, str] = os.environ) -> str:
        """Return the API key, or an empty string.

        Raises:
            InvalidInputError: both settings for the key are used, or the environment variable is not set.
        """
        if self.api_key and self.api_key_env:
            raise _bad("openai", "api_key_env", "give either api_key or api_key_env, not both")
        if self.api_key_env and not environ.get(self.api_key_env):
            raise _bad("openai", "api_key_env", f"the environment variable {self.api_key_env} is not set")
        key = self.api_key or environ.get(self.api_key_env, "")
        if any(not 32 < ord(character) < 127 for character in key):
            raise _bad("openai", "api_key", "a key has printable ASCII characters only")
        return key


def _plain_url(text: str) -> str:
    """Return the address without a trailing `/` or `/v1`, which people often copy too. An empty text stays empty.

    Raises:
        ValueError: the text is not an http(s) address.
    """
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        _ = parts.port  # raises ValueError if the port is not a number, or above 65535
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"base_url: {text!r} is no address like http://127.0.0.1:8000")
    return re.sub(r"(/v1)?/*$", "", text)


def _bad(name: str, field: str, sentence: str) -> InvalidInputError:
    path = f"runtimes.{name}.{field}"
    return InvalidInputError(
        f"In the settings, {path}: {sentence[:1].lower()}{sentence[1:].rstrip('.')}. Correct it and start again.",
        field=path,
    )
