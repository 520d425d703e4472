"""Parses what people and hubs call repositories, revisions and files. No text becomes a path unparsed."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tmde_core.errors import InvalidInputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""The name of a base model, which is also the name of its folder."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""An owner, or the name of a repository."""
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_PART = re.compile(r"[A-Za-z0-9_\[(][^\x00-\x1f\x7f-\x9f/\\:*?\"<>|]{0,199}")
"""A folder or a file of a repository: no dot first, nothing that a file system or a terminal takes for a command."""
_KNOWN_HOSTS = frozenset({"hf.co", "huggingface.co", "www.huggingface.co"})
_OTHER_KINDS = {"datasets": "a data set", "spaces": "a Space", "kernels": "a kernel", "buckets": "a bucket"}
_DROPPED_ENDINGS = ("-gguf", "_gguf", ".gguf")
LONGEST_PATH = 500
"""The most characters of a file's path in a repository."""


class Reference(NamedTuple):
    """What a person named: a repository, and perhaps a revision and a file or quantisation in it."""

    repository: str
    """`owner/name`."""
    revision: str = ""
    """The revision of an address such as `…/tree/v1.0`."""
    file: str = ""
    """What stood behind the colon or at the end of the address: a file, or a quantisation such as `Q4_K_M`."""


def parse_reference(text: str, endpoint: str = "") -> Reference:
    """Parse `owner/name`, `owner/name:FILE`, `hf.co/owner/name:Q4_K_M`, or the address of a page of the hub.

    Args:
        text: what a person typed.
        endpoint: the address of the hub; addresses on its host are taken.

    Raises:
        InvalidInputError: the text names no repository; the detail says what is expected.
    """
    text = text.strip()
    if text.startswith(("/", "~", "./", "../")):
        raise _refuse(text, "is a path on this machine, and no repository of the hub")
    rest, was_address = _strip_host(text, endpoint)
    path, _, file = rest.partition(":")
    parts = path.rstrip("/").split("/")
    if parts and parts[0] in _OTHER_KINDS:
        raise _refuse(text, f"is {_OTHER_KINDS[parts[0]]}, and not a model")
    if parts and parts[0] == "models" and len(parts) > 2:
        parts = parts[1:]
    revision = ""
    if was_address and len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "raw"):
        revision, below = parts[3], parts[4:]
        if parts[2] != "tree" and not file:
            file = "/".join(below)
        parts = parts[:2]
    if was_address and len(parts) == 3 and parts[2] in ("tree", "discussions", "files"):
        parts = parts[:2]
    if not is_repository("/".join(parts)):
        raise _refuse(text, "does not name a repository")
    if file.strip().lower() in ("latest", ""):  # Ollama's tag for the usual choice
        file = ""
    return Reference("/".join(parts), check_revision(revision), file.strip())


def is_repository(text: str) -> bool:
    """Return whether the text is `owner/name` as hubs allow it."""
    parts = text.split("/")
    return len(parts) == 2 and all(
        _HUB_NAME.fullmatch(part) and ".." not in part and "--" not in part for part in parts
    )


def check_revision(text: str) -> str:
    """Return the revision if it can be one; an empty text stands for the default branch.

    Raises:
        InvalidInputError: no branch, tag or commit has such a name.
    """
    text = text.strip()
    if text and (not _REVISION.fullmatch(text) or ".." in text or "//" in text or text.endswith("/")):
        raise InvalidInputError(
            f"{text[:80]!r} is no revision. Give a branch, a tag or a commit, such as main.", field="revision"
        )
    return text


def check_name(text: str) -> str:
    """Return the name of a base model.

    Raises:
        InvalidInputError: a folder cannot have this name.
    """
    if not NAME.fullmatch(text):
        raise InvalidInputError(
            f"{text[:100]!r} cannot be the name of a base model. Take 1 to 96 letters, digits, dots, dashes and "
            "underscores, with a letter or a digit first.",
            field="name",
        )
    return text


def derive_name(repository: str) -> str:
    """Return the name of the base model of a repository: `Qwen/Qwen3-4B-GGUF` becomes `Qwen3-4B`."""
    name = repository.partition("/")[2]
    for ending in _DROPPED_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    return check_name(name)


def parse_hub_path(path: str) -> tuple[str, ...] | None:
    """Return the parts of a file's path in a repository; None if no file may be written by this name.

    A hub may be hostile: its paths may be absolute, lead upwards, or hide control characters.
    """
    if len(path) > LONGEST_PATH:
        return None
    parts = tuple(path.split("/"))
    sound = all(_PART.fullmatch(part) and not part.endswith((".", " ")) for part in parts)
    return parts if sound and all(len(part.encode()) <= 240 for part in parts) else None


def _strip_host(text: str, endpoint: str) -> tuple[str, bool]:
    """Return the part of an address behind the host, and whether there was a host."""
    own = urlsplit(endpoint)
    if re.match(r"(?i)https?://", text):
        try:
            address = urlsplit(text)
            host, port = (address.hostname or "").lower(), address.port
        except ValueError:
            raise _refuse(text, "is no address") from None
        if host not in _KNOWN_HOSTS and (host, port) != ((own.hostname or "").lower(), own.port):
            raise _refuse(
                text,
                f"is not on the hub {endpoint or 'huggingface.co'}, which is the one that is asked. HF_ENDPOINT names "
                "another hub",
            )
        below = address.path.lstrip("/")
        prefix = own.path.strip("/")
        if prefix and host not in _KNOWN_HOSTS and below.startswith(f"{prefix}/"):
            below = below[len(prefix) + 1 :]
        return unquote(below), True
    if text.lower().startswith("hf://"):
        return text[len("hf://") :], True
    host, slash, rest = text.partition("/")
    if slash and host.lower() in {*_KNOWN_HOSTS, own.netloc.lower()} - {""}:
        return rest, True
    return text, False


def _refuse(text: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"{text[:120]!r} {why}. Give OWNER/NAME, such as Qwen/Qwen3-4B-GGUF, with :FILE or :Q4_K_M behind it if you "
        "want one file.",
        field="repository",
    )
