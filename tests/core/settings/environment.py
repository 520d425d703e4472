"""The settings that the environment can set, each with a value there and another that somebody wants instead."""

from __future__ import annotations

from typing import Any

OTHER: dict[str, tuple[str, Any]] = {
    "TMDE_HOST": ("127.0.0.1", "0.0.0.0"),
    "TMDE_PORT": ("8000", 9000),
    "TMDE_LOG_LEVEL": ("debug", "error"),
    "FINETUNE_MIN_TRACES": ("5", 9),
    "FINETUNE_MIN_QUALITY": ("5", 9.0),
    "FINETUNE_BACKEND": ("cpu", "other"),
    "FINETUNE_BASE_MODEL": ("a", "b"),
    "FINETUNE_SCHEDULE": ("0 2 * * 0", "0 3 * * 0"),
    "FINETUNE_TIMEZONE": ("UTC", "Europe/Berlin"),
    "BENCHMARK_SCHEDULE": ("0 2 * * 0", "0 3 * * 0"),
    "TMDE_WEBHOOK_URL": ("http://a.example", "http://b.example"),
    "TMDE_SUPERVISOR": ("server", "worker"),
}
"""Variable → the value in the environment, and the one that somebody wants instead."""


def wired(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A value below its names on the wire."""
    head, *rest = path
    first, *parts = head.split("_")
    name = first + "".join(part.capitalize() for part in parts)
    return {name: wired(tuple(rest), value) if rest else value}
