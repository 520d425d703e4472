"""The details of an adapter in the list: lineage, figures, files, history, tags, verification, export, deletion."""

from __future__ import annotations

from typing import Protocol

from tmde_core.errors import TmdeError
from tmde_core.records.lora import AdapterDetails, LoRAAdapter
from tmde_core.services import Services
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.forms import on_submit
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, format_bytes, sentence, short_id
from tmde_ui.versions.lineage import draw_lineage, find_run_name, load_trace_names, traces_of
from tmde_ui.versions.merged import MergedExport
from tmde_ui.versions.words import measured

STABLE = "stable"
SERVED_FILE = "adapter.gguf"
SHOWN_TRACES = 8

EXPORTS = (
    ("peft", "For PEFT and TMDE (.tar.gz)", "Weights as safetensors, with all known details."),
    ("gguf", "For llama.cpp (.gguf)", "The GGUF form, which llama.cpp serves beside the base model. One file."),
    (
        "peft-bin",
        "For older tools (.tar.gz with adapter_model.bin)",
        "The file is a pickle: loading it runs the code in it. Use it only for tools that read no other format. TMDE does not import it.",
    ),
)
"""Format → label and explanation."""


class Surroundings(Protocol):
    """The methods of the page that a row calls."""

    async def changed(self) -> None:
        """Update the page after an adapter was switched, tagged, verified or deleted."""

    def opened(self, adapter: LoRAAdapter | None) -> None:
        """Record which adapter's details are open; None if they were closed."""

    async def compare(self, adapter: LoRAAdapter) -> None:
        """Compare this adapter with another one."""


class AdapterDetailsView:
    """Shows the details of an adapter. Updates do not disturb what a person is typing."""

    def __init__(self, services: Services, around: Surroundings, adapter: LoRAAdapter) -> None:
        self._services = services
        self._around = around
        self._adapter = adapter
        with Tag("div", classes="stack details", data_testid="adapter-details") as self._box:
            if adapter.is_valid:
                self._naming()
                self._tagging()
            self._deeds()
            self._facts = Tag("div", classes="stack")

    async def show(self, adapter: LoRAAdapter) -> None:
        """Update everything that may have changed."""
        self._adapter = adapter
        if adapter.is_valid:
            self._draw_tags()
        self._draw_deletion()
        try:
            details = await self._services.lora.get_details(adapter.id)
        except TmdeError as error:
            self._facts.clear()
            with self._facts:
                Tag("p", sentence(error), "notice bad")
            return
        run_name = await find_run_name(self._services, details)
        taught = await load_trace_names(self._services, traces_of(details), SHOWN_TRACES)
        self._facts.clear()
        with self._facts:
            self._figures(details)
            draw_lineage(details, taught, run_name)

    # ---------------------------------------------------------------------------------------- tags

    def _naming(self) -> None:
        field = f"name-{self._adapter.id}"
        with Tag("form", classes="tagging", novalidate=True, data_testid="name-form") as form:
            Tag("label", "Name", "label small muted", for_=field)
            Tag(
                "input", classes="input", id=field, name="name", maxlength="80", autocomplete="off",
                defaultValue=self._adapter.name, data_testid="new-name",
            )  # fmt: skip
            button("Rename", type_="submit", test="rename")
        problem = Tag("p", classes="wrong", role="alert", data_testid="name-problem")

        async def rename(fields: dict[str, str]) -> None:
            problem.say("")
            try:
                await self._services.lora.rename(self._adapter.id, fields.get("name", ""))
            except TmdeError as error:
                problem.say(sentence(error))
                return
            await self._around.changed()

        on_submit(form, rename)

    def _tagging(self) -> None:
        with Tag("form", classes="tagging", novalidate=True, data_testid="tag-form") as form:
            Tag("span", "Tags", "label small muted")
            self._tags = Tag("span", classes="tags")
            field = f"tag-{self._adapter.id}"
            Tag("label", "A new tag", "visually-hidden", for_=field)
            Tag(
                "input", classes="input", id=field, name="tag", maxlength="40", autocomplete="off", spellcheck="false",
                placeholder="new tag", data_testid="new-tag",
            )  # fmt: skip
            button("Add tag", type_="submit", test="add-tag")
        self._tag_problem = Tag("p", classes="wrong", role="alert", data_testid="tag-problem")

        async def add(fields: dict[str, str]) -> None:
            name = fields.get("tag", "").strip()
            if name and await self._tag(add=(name,)):
                form.run_method("reset")

        on_submit(form, add)

    def _draw_tags(self) -> None:
        self._tags.clear()
        with self._tags:
            if not self._adapter.tags:
                Tag("span", "no tags; the tag stable protects an adapter from deletion", "small muted")
            for tag in self._adapter.tags:
                with Tag("span", classes="chip minor"):
                    Tag("span", tag)
                    cross = Tag("button", "×", "untag", type="button", aria_label=f"Remove the tag {tag}")
                    cross.put(data_testid="untag").on("click", lambda name=tag: self._tag(remove=(name,)), args=[])

    async def _tag(self, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> bool:
        self._tag_problem.say("")
        try:
            await self._services.lora.tag(self._adapter.id, add, remove)
        except TmdeError as error:
            self._tag_problem.say(sentence(error))
            return False
        await self._around.changed()
        return True

    # --------------------------------------------------------------------------------------- deeds

    def _deeds(self) -> None:
        with Tag("div", classes="line"):
            self._verify_button = button("Verify", test="verify").on("click", self._verify, args=[])
            if self._adapter.is_valid:
                with Tag("details", classes="export", data_testid="export"):
                    Tag("summary", "Export", "button")
                    with Tag("ul", classes="exports"):
                        self._exports = [self._export(*each) for each in EXPORTS]
                        with Tag("li"):
                            MergedExport(self._services, self._adapter)
                compare = button("Compare", test="compare-this")
                compare.on("click", lambda: self._around.compare(self._adapter), args=[])
            self._delete_button = button("Delete", "danger", test="delete").on("click", self._ask_delete, args=[])
            self._kept = Tag("span", classes="small muted", data_testid="kept")
        self._verified = Tag("div", classes="maybe", role="status", data_testid="verified")

    def _export(self, form: str, label: str, words: str) -> Tag:
        with Tag("li") as item:
            address = f"/api/lora/{self._adapter.id}/export?format={form}"
            link(label, address, download=True, data_testid=f"export-{form}")
            Tag("p", words, "small muted")
        return item

    async def _verify(self) -> None:
        self._verify_button.say("Verifying …").put(disabled=True)
        self._verified.clear()
        try:
            found = await self._services.lora.verify(self._adapter.id)
        except TmdeError as error:
            with self._verified:
                Tag("p", sentence(error), "notice bad")
            return
        finally:
            self._verify_button.say("Verify").put(disabled=False)
        with self._verified:
            if found.is_valid:
                read = f"{count(found.files, 'file')}, {format_bytes(found.bytes)}, read in {format_milliseconds(found.ms)}"
                Tag("p", f"The files are unchanged since publication: {read}.", "notice good")
            else:
                with Tag("div", classes="notice bad"):
                    Tag("p", "The adapter is damaged and cannot be activated:")
                    with Tag("ul", classes="skipped"):
                        for reason in found.reasons:
                            Tag("li", reason)
        await self._around.changed()

    def _draw_deletion(self) -> None:
        active, stable = self._adapter.is_active, STABLE in self._adapter.tags
        self._delete_button.put(disabled=active or stable)
        self._kept.say(
            "The active adapter cannot be deleted." if active else "The tag stable protects it from deletion." if stable else ""
        )  # fmt: skip

    def _ask_delete(self) -> None:
        freed = f" and {format_bytes(self._adapter.size_bytes)} are freed" if self._adapter.size_bytes else ""
        ask_once(
            self._box,
            f"Delete adapter {self._adapter.name} ({short_id(self._adapter.id)})?",
            f"Its files are removed from the disk at once{freed}. The audit trail keeps its history.",
            "This cannot be undone. Export the adapter first if you may need it again.",
            yes="Delete it",
            no="Keep it",
            doing="Deleting …",
            deed=lambda: self._services.lora.delete(self._adapter.id),
            then=self._around.changed,
            test="delete",
        )

    def _figures(self, details: AdapterDetails) -> None:
        for (form, _, _), item in zip(EXPORTS, self._exports if details.is_valid else (), strict=False):
            item.show(form != "gguf" or SERVED_FILE in details.files)
        pairs = measured(details.metrics)
        if pairs:
            with Tag("dl", classes="figures plain-figures", data_testid="adapter-metrics"):
                for name, value in pairs:
                    with Tag("div"):
                        Tag("dt", name)
                        Tag("dd", value)
