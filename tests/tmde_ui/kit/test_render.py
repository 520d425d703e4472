"""Foreign text as HTML: nothing gets through, nothing takes long."""

from __future__ import annotations

import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_ui.kit import render
from tmde_ui.kit.render import MAX_MARKDOWN_CHARS, to_html

SIZE = 64 * 1024
HOSTILE = {
    "brackets": "[",
    "images": "![",
    "links": "[a](",
    "nested links": "[[](",
    "emphasis": "*a ",
    "mixed emphasis": "*a_ ",
    "quotes": ">",
    "lists": "- ",
    "tags": "<a ",
    "comments": "<!-- ",
    "entities": "&",
    "strikes": "~~a",
    "cells": "|a",
    "table": "a|b\n-|-\n",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [SIZE, MAX_MARKDOWN_CHARS])
def test_hostile_text_is_not_dear(name, size):
    piece = HOSTILE[name]
    began = time.process_time()
    to_html((piece * (size // len(piece) + 1))[:size])
    assert time.process_time() - began < 8, (
        "the worst takes 0.4 s; with the 50 s of a careless renderer the server stops"
    )


async def test_long_text_is_rendered_off_the_event_loop(monkeypatch):
    threads = []
    monkeypatch.setattr(render, "to_html", lambda text: threads.append(threading.current_thread()) or text)
    await render.render("x" * (render.INLINE_CHARS + 1))
    await render.render("x")
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


def test_text_beyond_the_limit_is_shown_as_it_is():
    text = "<b>&" + "x" * MAX_MARKDOWN_CHARS
    assert to_html(text).startswith('<p class="plain">&lt;b&gt;&amp;xxx')


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](http://elsewhere.invalid/x.png)",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        '<a href="x" onclick="alert(1)">x</a>',
        '<p style="position:fixed" class="notice bad" id="app">x</p>',
        "<svg/onload=alert(1)>",
        "<iframe src=//elsewhere.invalid>",
        '[x](http://a"onmouseover="alert(1))',
        "```<img src=x>\n</code></pre><script>x</script>\n```",
    ],
)
def test_nothing_active_gets_through(text):
    html = to_html(text)
    tags = re.findall(r"<\s*(\w+)([^>]*)>", html)
    assert {tag for tag, _ in tags} <= {"p", "a", "code", "pre"}
    for tag, attributes in tags:
        names = set(re.findall(r"([\w-]+)=\"", attributes))
        assert names <= ({"href", "rel", "target"} if tag == "a" else set())
        assert not re.search(r"href=\"(?!https?:|mailto:|[^:\"]*\")", attributes)


@given(st.text(max_size=300))
def test_whatever_the_text_only_allowed_tags_come_out(text):
    assert not re.search(
        r"<\s*/?\s*(script|img|svg|iframe|style|object|embed|form|input|link|meta|base)\b", to_html(text), re.IGNORECASE
    )


def test_markdown_is_rendered():
    html = to_html(
        "# Title\n\n**bold** `code` ~~gone~~\n\n|a|b|\n|-|-|\n|1|2|\n\n3. three\n\n[link](https://example.org)"
    )
    for part in (
        "<h1>Title</h1>",
        "<strong>bold</strong>",
        "<code>code</code>",
        "<s>gone</s>",
        "<td>1</td>",
        '<ol start="3">',
        'rel="noopener noreferrer nofollow"',
    ):
        assert part in html
