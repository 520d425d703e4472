"""The export of an adapter merged with its base model: made on the page with its progress, then downloaded."""

from __future__ import annotations

import time
from typing import cast, get_args

from tmde_core.errors import TmdeError
from tmde_core.records.lora import LoRAAdapter
from tmde_core.records.training import MergeProgress, Quantization
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, choice, link
from tmde_ui.kit.forms import on_submit
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import format_bytes, sentence

OPTIONS = (
    ("Q8_0", "Q8_0: nearly without loss"),
    ("base", "As the base model: the smallest"),
    ("F16", "F16: without loss, the largest"),
)
"""Quantization → label."""
STEPS = {
    "preparing": "Preparing the base model",
    "merging": "Writing the merged model",
    "checking": "Comparing it with base model and adapter",
    "done": "Done",
}
DRAWN_SECONDS = 0.5
"""The shortest time between two drawings of the progress."""


class MergedExport:
    """A form that makes the merged model, says how it goes, and offers the download."""

    def __init__(self, services: Services, adapter: LoRAAdapter) -> None:
        self._services = services
        self._adapter = adapter
        self._drawn = 0.0
        name = f"quantization-{adapter.id}"  # several adapters may be open
        with Tag("div", classes="stack"):
            with Tag("form", classes="stack", data_testid="merge-form") as form:
                Tag("strong", "For Ollama, LM Studio and llama.cpp (.tar with one .gguf)", "small")
                Tag("p", "Base model and adapter in one GGUF file, with notes on how to use it.", "small muted")
                choice("Weights", name, OPTIONS, data_testid="merge-quantization")
                self._make = button("Make the file", test="merge", type_="submit")
            self._state = Tag("p", classes="small muted", role="status", data_testid="merge-state")
            self._result = Tag("div", classes="stack", data_testid="merge-result")

        async def make(fields: dict[str, str]) -> None:
            wanted = fields.get(name, "")
            if wanted in get_args(Quantization):
                self._begin(cast("Quantization", wanted))

        on_submit(form, make)

    def _begin(self, quantization: Quantization, *, force: bool = False) -> None:
        self._make.put(disabled=True)
        self._result.clear()
        self._state.say("Waiting for its turn …")
        with self._result:
            start_task(lambda: self._merge(quantization, force), "merge-adapter")

    async def _merge(self, quantization: Quantization, force: bool) -> None:
        try:
            made = await self._services.archives.merges.prepare(
                self._adapter.id, quantization, force=force, tell=self._tell
            )
        except TmdeError as error:
            self._state.say("")
            with self._result:
                Tag("p", sentence(error), "notice bad", data_testid="merge-refused")
                if error.context.get("flaws"):
                    again = button("Make it anyway", test="merge-anyway")
                    again.on("click", lambda: self._begin(quantization, force=True), args=[])
            return
        finally:
            self._make.put(disabled=False)
        self._state.say("")
        with self._result:
            for note in made.result.notes:
                Tag("p", note, "small muted")
            if quality := made.result.quality:
                Tag(
                    "p",
                    f"{quality.right_merged} of {quality.asked} simple questions right, where base model and adapter gave "
                    f"{quality.right_apart}; the same likeliest token at {quality.same_token:.0%} of the places.",
                    "notice bad" if quality.flaws else "notice good",
                )
            address = f"/api/lora/{self._adapter.id}/export?format=merged-gguf&quantization={quantization}"
            words = f"Download {made.filename} ({format_bytes(made.result.size_bytes)})"
            link(words, address, download=True, data_testid="merge-download")
            Tag("p", "TMDE keeps the file for one download, for an hour.", "small muted")

    def _tell(self, progress: MergeProgress) -> None:
        now = time.monotonic()
        if now - self._drawn >= DRAWN_SECONDS or progress.share == 0:
            self._drawn = now
            self._state.say(f"{STEPS[progress.step]}: {progress.share:.0%}")
