"""The one place where text that somebody else wrote (models, templates, imports, people) becomes HTML.

Markdown is rendered with raw HTML switched off and then sanitised against an allow-list, so that two parsers would have
to fail in the same way. Rendering is not free, and hostile text can make it dear: what is long is rendered on a thread,
and what is very long is shown as it is.
"""

from __future__ import annotations

import asyncio
import html

import nh3
from markdown_it import MarkdownIt
from nicegui import ui

MAX_MARKDOWN_CHARS = 24_000
"""Longer text is shown as plain text. Answers are far shorter; the worst input of this size takes well under a second."""

INLINE_CHARS = 2_000
"""Up to this length rendering takes at most a few milliseconds, which a thread hop is not worth."""

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
"""No images: they would be loaded from elsewhere. No class, style or id: text must not dress up as a part of the page."""

_markdown = (
    MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"]).disable("image")
)


def to_html(text: str) -> str:
    """Markdown to sanitised HTML. Takes time on long text: see `show`."""
    if len(text) > MAX_MARKDOWN_CHARS:
        return f'<p class="plain">{html.escape(text)}</p>'
    return nh3.clean(
        _markdown.render(text),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


async def rendered(text: str) -> str:
    """`to_html`, off the event loop where it may take long."""
    return to_html(text) if len(text) <= INLINE_CHARS else await asyncio.to_thread(to_html, text)


def prose(content: str = "", classes: str = "") -> ui.html:
    """An element that shows the output of `to_html` or `rendered`, and nothing else."""
    return ui.html(content, sanitize=False).classes(f"prose {classes}".strip())
