"""Describes what a hub tells about a repository."""

from __future__ import annotations

from tmde_core.records.base import Record


class HubFile(Record):
    """A file of a repository, as the hub names it. Nothing of it is trusted."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None


class HubListing(Record):
    """A repository at one commit."""

    repository: str
    """Its id as the hub spells it now; it may have been renamed."""
    endpoint: str
    commit: str
    files: tuple[HubFile, ...]
    license: str = ""
    gated: bool = False
    base_models: tuple[str, ...] = ()
    """The repositories of which the publisher says that this one holds quantised copies."""
    parameters: int | None = None
    authenticated: bool = False
    """Whether a token was sent."""


class HubQuestion(Record):
    """What the process that asks the hub is given."""

    repository: str
    revision: str
