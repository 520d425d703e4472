"""Recognise the kind of an OpenAI-style server from its answer to `/v1/models`, and find a model in that list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tmde_core.sdk.errors import NotFoundError
from tmde_core.sdk.lenient_json import as_list, as_text
from tmde_runtime_http.generic import Generic, LmStudio
from tmde_runtime_http.llama_server import LlamaServer
from tmde_runtime_http.options import Flavor
from tmde_runtime_http.vllm import Vllm

KINDS: dict[str, type[Generic]] = {
    "vllm": Vllm,
    "llama-server": LlamaServer,
    "lm-studio": LmStudio,
    "generic": Generic,
}
OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "organization_owner": "lm-studio"}
"""Maps `owned_by` in `/v1/models` to a flavor."""


def detect(flavor: Flavor, listing: Sequence[dict[str, Any]]) -> type[Generic]:
    """Return the class for `flavor`, or the class that the listing indicates if `flavor` is `auto`."""
    if flavor != "auto":
        return KINDS[flavor]
    for entry in listing:
        if owner := OWNERS.get(str(entry.get("owned_by", "")).lower()):
            return KINDS[owner]
    return Generic


def find_model(listing: Sequence[dict[str, Any]], wanted: str, server: str) -> dict[str, Any]:
    """Return the listed model called `wanted`, or the first model if `wanted` is empty.

    Raises:
        NotFoundError: the server does not have this model, or has no model at all.
    """
    for entry in listing:
        if wanted in ("", entry.get("id")) or wanted in as_list(entry.get("aliases")):
            return entry
    names = [as_text(entry.get("id")) for entry in listing]
    if not names:
        raise NotFoundError(f"{server[:1].upper()}{server[1:]} has no model loaded. Load one there first.")
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    raise NotFoundError(
        f"{server[:1].upper()}{server[1:]} has no model called {wanted!r}; it has {shown}.", model=wanted
    )
