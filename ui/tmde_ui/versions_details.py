"""An adapter that was opened in the list: lineage, figures, files and history; tags, verification, export, deletion."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from nicegui import ui

from tmde_core.errors import NotFoundError, TmdeError
from tmde_core.lora.records import AdapterDetails, LoRAAdapter
from tmde_core.services import Services
from tmde_ui.elements import Modal, Tag, button, facts, link
from tmde_ui.finetune_words import age
from tmde_ui.forms import on_submit
from tmde_ui.versions_words import GATES, deed, figure, hyperparameter, identity, measured
from tmde_ui.words import count, duration, exact, sentence, short_id, size, snippet

STABLE = "stable"
SERVED_FILE = "adapter.gguf"
SHOWN_TRACES = 8
SHOWN_EVENTS = 10

EXPORTS = (
    ("peft", "For PEFT and TMDE (.tar.gz)", "Weights as safetensors, with everything that is known of it."),
    ("gguf", "For llama.cpp and Ollama (.gguf)", "The form that is served; one file."),
    (
        "peft-bin",
        "For older tools (.tar.gz with adapter_model.bin)",
        "That file is a pickle: loading one runs the code in it. Only for tools that read nothing else; TMDE itself refuses it.",
    ),
)
"""Format → label and what to know of it."""


class Surroundings(Protocol):
    """What a row needs of the page that it is on."""

    async def changed(self) -> None:
        """Something was switched, tagged, verified or deleted: look at once."""

    def opened(self, adapter: LoRAAdapter | None) -> None:
        """The details of an adapter were opened; None: they were closed."""

    async def compare(self, adapter: LoRAAdapter) -> None:
        """Compare it with another."""


class Details:
    """Drawn into the place where it is made. What a person types in it stays while the figures around it change."""

    def __init__(self, services: Services, around: Surroundings, adapter: LoRAAdapter) -> None:
        self._services = services
        self._around = around
        self._adapter = adapter
        with Tag("div", classes="stack details", data_testid="adapter-details") as self._box:
            if adapter.is_valid:
                self._tagging()
            self._deeds()
            self._facts = Tag("div", classes="stack")

    async def show(self, adapter: LoRAAdapter) -> None:
        """Make everything true that may have changed."""
        self._adapter = adapter
        if adapter.is_valid:
            self._draw_tags()
        self._draw_deletion()
        try:
            details = await self._services.lora.details(adapter.id)
        except TmdeError as error:
            self._facts.clear()
            with self._facts:
                Tag("p", sentence(error), "notice bad")
            return
        lineage = await self._lineage(details)
        self._facts.clear()
        with self._facts:
            self._figures(details)
            self._origin(details, *lineage)
            _history(details)

    # ---------------------------------------------------------------------------------------- tags

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
                with form:
                    ui.run_javascript(f"getHtmlElement({form.id}).reset()")

        on_submit(form, add)

    def _draw_tags(self) -> None:
        self._tags.clear()
        with self._tags:
            if not self._adapter.tags:
                Tag("span", "none so far; stable protects it from deletion", "small muted")
            for tag in self._adapter.tags:
                with Tag("span", classes="chip minor"):
                    Tag("span", tag)
                    cross = Tag("button", "×", "untag", type="button", aria_label=f"Take off the tag {tag}")
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
                read = f"{count(found.files, 'file')}, {size(found.bytes)}, read in {duration(found.ms)}"
                Tag("p", f"Every byte is as it was published: {read}.", "notice good")
            else:
                with Tag("div", classes="notice bad"):
                    Tag("p", "It is damaged and will not be activated:")
                    with Tag("ul", classes="skipped"):
                        for reason in found.reasons:
                            Tag("li", reason)
        await self._around.changed()

    def _draw_deletion(self) -> None:
        active, stable = self._adapter.is_active, STABLE in self._adapter.tags
        self._delete_button.put(disabled=active or stable)
        self._kept.say(
            "It answers now, so it cannot be deleted." if active else "The tag stable protects it from deletion." if stable else ""
        )  # fmt: skip

    def _ask_delete(self) -> None:
        name = f"adapter {short_id(self._adapter.id)}"
        with self._box:
            dialog = Modal(f"Delete {name}?", test="delete-dialog")
        dialog.on("close", dialog.delete, args=[])
        with dialog.body:
            freed = f" and {size(self._adapter.size_bytes)} are freed" if self._adapter.size_bytes else ""
            Tag(
                "p",
                f"Its files are removed from the disk at once{freed}. What was done with it stays in the audit trail.",
            )
            Tag("p", "It cannot be brought back. Export it first if you may want it again.", "muted")
            problem = Tag("p", classes="notice bad", role="alert").show(visible=False)
            with Tag("div", classes="line"):
                confirm = button("Delete it", "primary", test="confirm-delete")
                button("Keep it").on("click", js_handler=f"() => getHtmlElement({dialog.id}).close()")

        async def delete() -> None:
            confirm.say("Deleting …").put(disabled=True)
            try:
                await self._services.lora.delete(self._adapter.id)
            except TmdeError as error:
                problem.say(sentence(error)).show()
                return
            with self._box:
                dialog.close()
            await self._around.changed()

        confirm.on("click", delete, args=[])
        dialog.open()

    # --------------------------------------------------------------------------------------- facts

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

    async def _lineage(self, details: AdapterDetails) -> tuple[UUID | None, bool, list[tuple[str, UUID | None]]]:
        """The run it came from, whether that is known here, and the first traces it learned from."""
        run = identity(details.lineage.get("runId"))
        known = False
        if run is not None:
            try:
                await self._services.finetune.get(run)
                known = True
            except NotFoundError:
                pass
        traces: list[tuple[str, UUID | None]] = []
        for one in _traces(details)[:SHOWN_TRACES]:
            trace_id = identity(one)
            try:
                if trace_id is None:
                    continue
                trace = await self._services.traces.get(trace_id)
                traces.append((snippet(trace.query, 90), trace_id))
            except NotFoundError:
                traces.append((f"{short_id(trace_id)}, which is not here", None))
        return run, known, traces

    def _origin(
        self, details: AdapterDetails, run: UUID | None, known: bool, traces: list[tuple[str, UUID | None]]
    ) -> None:
        with Tag("dl", classes="facts", data_testid="lineage"):
            _fact("Adapter", str(details.id))
            _fact("Made", exact(details.created_at))
            if details.is_valid:
                _fact("Gate", GATES[details.gate][2])
                _fact("Base model", details.base_model)
            if run is not None:
                Tag("dt", "Made by")
                with Tag("dd"):
                    if known:
                        link(f"training run {short_id(run)}", f"/finetune/{run}", data_testid="to-run")
                    else:
                        Tag("span", f"training run {short_id(run)}, which is not here")
            origin = details.lineage.get("originId")
            if isinstance(origin, str):
                _fact("Was called elsewhere", origin[:80])
            if traces:
                Tag("dt", "Learned from")
                with Tag("dd"), Tag("ul", classes="lineage"):
                    for words, trace_id in traces:
                        with Tag("li"):
                            if trace_id is None:
                                Tag("span", words, "muted")
                            else:
                                link(words, f"/traces/{trace_id}")
                    rest = len(_traces(details)) - len(traces)
                    if rest > 0:
                        Tag("li", f"and {rest:,} more", "muted")
            _fact("Dataset, SHA-256", details.dataset_sha256 or "")
            _fact("Weights, SHA-256", details.sha256)
            _fact("Directory", details.path)
        with Tag("div", classes="stack tight"):
            _more("Configuration", [(hyperparameter(name), value) for name, value in _flat(details.training)])
            _more("Files and their SHA-256", sorted(details.files.items()))


def _fact(name: str, value: str) -> None:
    if value:
        Tag("dt", name)
        Tag("dd", value)


def _more(title: str, pairs: list[tuple[str, str]]) -> None:
    if pairs:
        with Tag("details"):
            Tag("summary", title)
            with Tag("div", style="padding-top:12px"):
                facts(pairs)


def _flat(tree: dict[str, object]) -> list[tuple[str, str]]:
    """What training_args.json says, its tables opened up."""
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _flat(value)
        else:
            found.append((name, figure(value)))
    return found


def _traces(details: AdapterDetails) -> list[object]:
    listed = details.lineage.get("traceIds")
    return listed if isinstance(listed, list) else []


def _history(details: AdapterDetails) -> None:
    if not details.history:
        return
    with Tag("div", classes="stack tight"):
        Tag("h3", "What was done with it")
        with Tag("ul", classes="lineage", data_testid="adapter-history"):
            for event in details.history[:SHOWN_EVENTS]:
                words = f"{deed(event)}, {age(event.timestamp)}"
                Tag(
                    "li",
                    f"{words}: {event.error_message}" if event.error_message else words,
                    title=exact(event.timestamp),
                )
