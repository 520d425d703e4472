"""The look: colours, and how they reach the browser.

The rest of the look is in `assets/tmde.css`, which uses colours only by the names given here. Every pair in `TEXT_ON`
meets WCAG AA (contrast 4.5) in both schemes; a test computes the contrast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets"

LIGHT = {
    "paper": "#f6f5f1",
    "surface": "#ffffff",
    "sunken": "#efede7",
    "line": "#dfdcd3",
    "line-strong": "#8b867a",
    "ink": "#1d1c1a",
    "muted": "#5c5850",
    "accent": "#14675c",
    "accent-soft": "#e0efec",
    "on-accent": "#ffffff",
    "button": "#262521",
    "on-button": "#ffffff",
    "proposer": "#1b5a9e",
    "proposer-soft": "#e6eef7",
    "skeptic": "#a02c49",
    "skeptic-soft": "#f8e7eb",
    "synthesizer": "#6739a0",
    "synthesizer-soft": "#efe8f8",
    "judge": "#735400",
    "judge-soft": "#f5edd6",
    "critical": "#a3161d",
    "critical-soft": "#fae3e2",
    "major": "#8a4108",
    "major-soft": "#faeadb",
    "minor": "#54524b",
    "minor-soft": "#ebe9e2",
    "good": "#1d6b36",
    "good-soft": "#e2f1e5",
}
DARK = {
    "paper": "#141517",
    "surface": "#1c1d20",
    "sunken": "#232529",
    "line": "#33353b",
    "line-strong": "#797c86",
    "ink": "#ebe9e4",
    "muted": "#a9a69e",
    "accent": "#63c6b5",
    "accent-soft": "#17322e",
    "on-accent": "#0d1f1c",
    "button": "#ebe9e4",
    "on-button": "#1d1c1a",
    "proposer": "#86b8f2",
    "proposer-soft": "#1a2838",
    "skeptic": "#f29aac",
    "skeptic-soft": "#381f26",
    "synthesizer": "#c6a8f3",
    "synthesizer-soft": "#2b2238",
    "judge": "#e2c169",
    "judge-soft": "#332b16",
    "critical": "#ff9f97",
    "critical-soft": "#3c1c1c",
    "major": "#f3b478",
    "major-soft": "#37271a",
    "minor": "#b8b5ac",
    "minor-soft": "#2a2b2e",
    "good": "#85d09a",
    "good-soft": "#193021",
}
"""Name → colour. The `-soft` colours are backgrounds for text of the same name."""

TEXT_ON = (
    *((text, ground) for text in ("ink", "muted", "accent") for ground in ("paper", "surface", "sunken")),
    *(
        (role, ground)
        for role in ("proposer", "skeptic", "synthesizer", "judge")
        for ground in ("paper", "surface", f"{role}-soft")
    ),
    *((name, ground) for name in ("critical", "major", "minor", "good") for ground in ("surface", f"{name}-soft")),
    ("accent", "accent-soft"),
    ("ink", "accent-soft"),
    ("on-accent", "accent"),
    ("on-button", "button"),
)
"""Pairs of text colour and background."""

LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" aria-hidden="true">'
    '<circle cx="12" cy="16" r="8.5" stroke="#3f86d6" stroke-width="2.6"/>'
    '<circle cx="20" cy="16" r="8.5" stroke="#d3506f" stroke-width="2.6" stroke-dasharray="4.1 2.57"/></svg>'
)
"""Two overlapping circles; the second is dashed, for the mind that does not exist."""


def variables() -> str:
    """Return the colours as CSS custom properties. `data-theme` on the root element selects the scheme."""
    return f":root{{{_declare(LIGHT)}color-scheme:light}}:root[data-theme=dark]{{{_declare(DARK)}color-scheme:dark}}"


def asset_url(name: str) -> str:
    """Return the URL of a file in `assets/`. The URL changes with the content, so browsers can cache the file."""
    digest = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:12]
    return f"/assets/{name}?v={digest}"


def head() -> str:
    """Return the head of every page. The script blocks, because it selects the scheme before the first paint."""
    return (
        f"<style>{variables()}</style>"
        f'<link rel="stylesheet" href="{asset_url("tmde.css")}">'
        '<meta name="referrer" content="same-origin">'
        f'<script src="{asset_url("tmde.js")}"></script>'
    )


def _declare(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())
