"""Reads what the hub's library tells about a repository. Nothing of it is trusted."""

from __future__ import annotations

from typing import Any

from tmde_core.models.pulling.listing import HubFile, HubListing
from tmde_core.models.pulling.names import is_repository


def read_listing(info: Any, hub: str, repository: str, *, authenticated: bool) -> HubListing:
    """Return a repository from the library's record of it.

    Raises:
        ValueError, TypeError, AttributeError: the hub has sent something else.
    """
    card = dict(info.card_data.to_dict()) if info.card_data else {}
    tags = [str(tag) for tag in info.tags or ()]
    commit = str(info.sha or "")
    if _hex(commit, 40) is None:
        raise ValueError("commit")
    return HubListing(
        # A repository that was renamed answers with its new name.
        repository=info.id if is_repository(str(info.id)) else repository,
        endpoint=hub,
        commit=commit,
        files=tuple(_file(sibling) for sibling in info.siblings or ()),
        license=_license(card, tags),
        gated=bool(info.gated),
        base_models=tuple(name for name in map(_quantized_from, tags) if is_repository(name)),
        parameters=_parameters(info),
        authenticated=authenticated,
    )


def _quantized_from(tag: str) -> str:
    """Return the repository of which the publisher says that this one is a quantised copy; empty for other tags."""
    return tag.removeprefix("base_model:quantized:") if tag.startswith("base_model:quantized:") else ""


def _file(sibling: Any) -> HubFile:
    size, sha256, blob = sibling.size, None, sibling.blob_id
    if sibling.lfs:
        sha256, size = sibling.lfs.sha256, sibling.lfs.size if sibling.lfs.size is not None else size
    return HubFile(
        path=str(sibling.rfilename),
        size_bytes=size if isinstance(size, int) else None,
        sha256=_hex(sha256, 64),
        # The blob of a file in LFS is a pointer, and not the file.
        git_sha1=None if sibling.lfs else _hex(blob, 40),
    )


def _hex(value: object, digits: int) -> str | None:
    """Return a hash in lower case; None if the value is none."""
    lower = value.lower() if isinstance(value, str) else ""
    return lower if len(lower) == digits and set(lower) <= set("0123456789abcdef") else None


def _license(card: dict[str, Any], tags: list[str]) -> str:
    found = card.get("license")
    found = found[0] if isinstance(found, list) and found else found
    if found == "other" and isinstance(card.get("license_name"), str):
        found = card["license_name"]
    if not isinstance(found, str):
        found = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    return " ".join(found.split())[:100]


def _parameters(info: Any) -> int | None:
    for source in (getattr(info, "safetensors", None), getattr(info, "gguf", None)):
        total = source.get("total") if isinstance(source, dict) else getattr(source, "total", None)
        if isinstance(total, int) and total > 0:
            return total
    return None
