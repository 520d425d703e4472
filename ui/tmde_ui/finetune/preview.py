"""Show the training data of a run in the dialog, before the run starts."""

from __future__ import annotations

from nicegui import ui

from tmde_core.records.finetune import FineTunePreview, MemoryFit
from tmde_core.records.training import MaskedPiece
from tmde_ui.finetune.words import left_out, why
from tmde_ui.kit.chart.shapes import columns
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, format_bytes, short_id

SHOWN_LEFT_OUT = 50
"""Number of left-out traces listed by name. The others are only counted."""

MAX_EXAMPLE_CHARS = 40_000
"""Limit for the first example. An answer may have any length, and the page must stay fast."""

FIT_KINDS = {"fits": "good", "tight": "warm", "too-large": "bad", "unknown": ""}
"""Verdict about memory → kind of notice."""


def draw_preview(preview: FineTunePreview) -> None:
    """Draw the whole preview."""
    if preview.refusal:
        Tag("p", preview.refusal, "notice warm", data_testid="refusal")
    with Tag("dl", classes="figures plain-figures", data_testid="preview-figures"):
        for name, value, test in _figures(preview):
            with Tag("div"):
                Tag("dt", name)
                Tag("dd", value, data_testid=test)
    for fit in preview.fits:
        _fit(fit)
    if preview.pause:
        Tag("p", preview.pause, "notice", data_testid="preview-pause")
    if preview.note and preview.note != preview.refusal:
        Tag("p", preview.note, "muted small")
    if preview.basis:
        Tag("p", preview.basis, "muted small", data_testid="preview-basis")
    if preview.histogram:
        with Tag("section", classes="stack tight", aria_label="Lengths"):
            Tag("h3", "Examples by tokens")
            ui.html(
                columns(
                    [(f"{bucket.low:,}", bucket.examples) for bucket in preview.histogram],
                    title="Examples by their number of tokens, from",
                    colour="proposer",
                ),
                sanitize=False,
            )
    if preview.left_out_by_reason:
        _left_out(preview)
    if preview.first_example:
        _first_example(preview.first_example)


def _figures(preview: FineTunePreview) -> tuple[tuple[str, str, str], ...]:
    enough = f"{preview.examples:,} of {preview.required:,} needed"
    split = f"{preview.train_examples:,}, and {preview.val_examples:,} held out"
    seconds, tokens = preview.estimated_seconds, preview.total_tokens
    learned = (
        f"{preview.supervised_tokens:,} of {tokens:,}" if tokens and preview.supervised_tokens is not None else "–"
    )
    return (
        ("Examples", enough if preview.examples < preview.required else split, "preview-examples"),
        ("Tokens trained on", learned, "preview-tokens"),
        ("Longest example", count(preview.longest, "token") if preview.longest else "–", "preview-longest"),
        ("Steps", f"{preview.total_steps:,}" if preview.total_steps else "–", "preview-steps"),
        ("Estimated time", format_milliseconds(seconds * 1000) if seconds else "–", "preview-time"),
        ("Memory", _memory(preview), "preview-memory"),
    )


def _memory(preview: FineTunePreview) -> str:
    card = f"{format_bytes(preview.estimated_vram_bytes)} of GPU memory" if preview.estimated_vram_bytes else ""
    return " and ".join(part for part in (format_bytes(preview.estimated_ram_bytes), card) if part) or "–"


def _fit(fit: MemoryFit) -> None:
    """Draw whether the run fits into the free memory, and what to change if it does not."""
    with Tag(
        "div", classes=f"notice stack tight {FIT_KINDS[fit.verdict]}".strip(), data_testid=f"preview-fit-{fit.place}"
    ):
        Tag("p", fit.text)
        if fit.remedies:
            Tag("p", "What to change:", "small")
            with Tag("ul", classes="small"):
                for remedy in fit.remedies:
                    Tag("li", remedy)


def _left_out(preview: FineTunePreview) -> None:
    with Tag("details", data_testid="left-out"):
        Tag("summary", left_out(preview.left_out_by_reason))
        with Tag("ul", classes="skipped"):
            for one in preview.left_out[:SHOWN_LEFT_OUT]:
                with Tag("li"):
                    link(f"Trace {short_id(one.trace_id)}", f"/traces/{one.trace_id}")
                    Tag("span", f": {why(one)}")
        if (more := sum(preview.left_out_by_reason.values()) - min(len(preview.left_out), SHOWN_LEFT_OUT)) > 0:
            Tag("p", f"and {more:,} more", "muted small")


def _first_example(pieces: tuple[MaskedPiece, ...]) -> None:
    """Draw the example as the model sees it, always as text because models and people wrote it."""
    with Tag("section", classes="stack tight", aria_label="The first example"):
        Tag("h3", "The first example, as the model sees it")
        with Tag("p", classes="muted small"):
            Tag("span", "Only ")
            Tag("mark", "the marked text", "learned")
            Tag("span", " is trained on. The rest is context.")
        with Tag("div", classes="mask", tabindex="0", role="group", aria_label="Example", data_testid="mask"):
            room = MAX_EXAMPLE_CHARS
            for piece in pieces:
                if room <= 0:
                    Tag("span", " … (shortened)")
                    break
                Tag("mark" if piece.supervised else "span", piece.text[:room], "learned" if piece.supervised else "")
                room -= len(piece.text)
