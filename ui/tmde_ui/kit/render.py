"""Turn text that others wrote (models, templates, imports, people) into HTML. No other module does this.

Markdown is rendered without raw HTML and then sanitised with an allow-list, so an attack must get past two parsers in
the same way. Rendering takes time, and hostile text can take much more: long text is rendered on a thread, and very
long text is shown as plain text.
"""

from __future__ import annotations

import asyncio
import html

import nh3
from markdown_it import MarkdownIt
from nicegui import ui

MAX_MARKDOWN_CHARS = 24_000
"""Longer text is shown as plain text. Answers are far shorter. The worst input of this size takes under a second."""

INLINE_CHARS = 2_000
"""Up to this length, rendering takes a few milliseconds at most, which is not worth a thread."""

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
"""No images, because they would be loaded from other servers. No class, style or id: text must not imitate the page."""

_markdown = (
    MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"]).disable("image")
)


def to_html(text: str) -> str:
    """Convert Markdown to sanitised HTML. This takes time on long text: see `rendered`."""
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


async def render(text: str) -> str:
    """Run `to_html`, on a thread if the text is long."""
    return to_html(text) if len(text) <= INLINE_CHARS else await asyncio.to_thread(to_html, text)


def prose(content: str = "", classes: str = "") -> ui.html:
    """Return an element for the output of `to_html` or `rendered`. Pass nothing else."""
    return ui.html(content, sanitize=False).classes(f"prose {classes}".strip())
