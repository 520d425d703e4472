"""Check whether a server is reachable, with one short, blocking request on a thread."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.runtimes import Availability
from tmde_runtime_http.options import OllamaSettings, OpenAISettings

PROBE_SECONDS = 1.5
"""The time limit of the check. A local server answers within milliseconds, and a page must not wait for a missing one.
"""


def ollama_availability(context: PluginContext[OllamaSettings]) -> Availability:
    """Return whether Ollama answers."""
    options = context.settings
    return _probe(
        f"{options.base_url}/api/version",
        {},
        f"Ollama does not answer at {options.base_url}. Start it with `ollama serve`, or set base_url in [runtimes.ollama].",
    )


def openai_availability(context: PluginContext[OpenAISettings]) -> Availability:
    """Return whether a server is configured, answers and accepts the key."""
    options = context.settings
    try:
        key = options.key()
    except TmdeError as error:
        return Availability(ok=False, reason=error.detail)
    if not options.base_url:
        return Availability(
            ok=False,
            reason="No server is configured. Set base_url in the table [runtimes.openai] of tmde.toml, "
            "for example to http://127.0.0.1:8000.",
        )
    return _probe(
        f"{options.base_url}/v1/models",
        {"authorization": f"Bearer {key}"} if key else {},
        f"The model server does not answer at {options.base_url}. Start it, or correct base_url in [runtimes.openai].",
    )


def _probe(url: str, headers: Mapping[str, str], away: str) -> Availability:
    try:
        response = httpx.get(url, headers=headers, timeout=PROBE_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return Availability(ok=False, reason=away)
    if response.status_code in (401, 403):
        return Availability(
            ok=False,
            reason=f"The server at {url} refuses the key (HTTP {response.status_code}). Check the key in the settings.",
        )
    if response.status_code >= 400:
        return Availability(
            ok=False,
            reason=f"The server at {url} answers with HTTP {response.status_code}. Check its address and its log.",
        )
    return Availability(ok=True)
