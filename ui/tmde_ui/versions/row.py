"""One adapter in the list: its line, the button to activate it, and its details when opened."""

from __future__ import annotations

from tmde_core.errors import TmdeError
from tmde_core.records.lora import LoRAAdapter
from tmde_core.services import Services
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button, chip, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.times import age, exact
from tmde_ui.kit.words import count, format_bytes, sentence, short_id
from tmde_ui.versions.details import AdapterDetailsView, Surroundings
from tmde_ui.versions.words import GATES, losses, score_words


class AdapterRow:
    """A list item. Updates keep what a person has opened or is typing in it."""

    def __init__(self, services: Services, around: Surroundings, adapter: LoRAAdapter) -> None:
        self._services = services
        self._around = around
        self._adapter = adapter
        self._shown: LoRAAdapter | None = None
        self._details: AdapterDetailsView | None = None
        with Tag("li", classes="version", data_testid="version") as self.element:
            with Tag("div", classes="version-line"):
                self._state = Tag("span", classes="version-state")
                with Tag("span", classes="lead"):
                    self._name = Tag("span", adapter.name, "name", title=str(adapter.id), data_testid="adapter-name")
                    Tag("span", short_id(adapter.id), "mono muted small")
                    self._made = Tag("span", classes="muted small", title=exact(adapter.created_at))
                    self._score = Tag("span", classes="small", data_testid="adapter-score")
                    self._tags = Tag("span", classes="tags")
                self._losses = Tag("span", classes="cell", data_testid="adapter-losses")
                self._data = Tag("span", classes="cell")
                self._size = Tag("span", classes="cell", data_testid="adapter-size")
                with Tag("span", classes="actions"):
                    self._activate = button("Activate", test="activate")
                    self._more = button("Details", "quiet", test="details", aria_expanded="false")
            self._reason = Tag("p", classes="reason", data_testid="invalid-reason").show(visible=False)
            self._problem = Tag("p", classes="notice bad", role="alert", data_testid="row-problem").show(visible=False)
            self._same = button("They are the same model", "quiet", test="same-base").show(visible=False)
            self._box = Tag("div", classes="maybe")
        self._more.put(aria_label=f"Details of {name_of(adapter.id)}", aria_controls=f"c{self._box.id}")
        self._activate.put(aria_label=f"Activate {name_of(adapter.id)}")
        self._activate.on("click", self._switch, args=[])
        self._more.on("click", self._toggle, args=[])
        self._same.on("click", self._ask_same, args=[])
        self._served_base = ""

    def tell_time(self) -> None:
        """Update the age."""
        self._made.say(age(self._adapter.created_at))

    async def show(self, adapter: LoRAAdapter) -> None:
        """Update the line."""
        self.tell_time()
        if adapter == self._shown:
            return
        self._adapter = self._shown = adapter
        self.element.classes(replace="version active" if adapter.is_answering else "version")
        self._state.clear()
        with self._state:
            if adapter.is_answering:
                chip("active", "answering", data_testid="active-badge")
            elif adapter.is_active:
                why = "the Proposer's runtime cannot serve adapters" if adapter.is_valid else "it is damaged"
                meaning = f"It was activated, but {why}, so the base model answers."
                chip("not answering", "major", title=meaning, data_testid="active-badge")
            if not adapter.is_valid:
                chip("invalid", "critical", data_testid="invalid")
            else:
                word, kind, meaning = GATES[adapter.gate]
                chip(word, kind, title=meaning, data_testid="gate")
            if adapter.twin_of is not None:
                same = f"The same weights and configuration as {name_of(adapter.twin_of)}."
                chip(f"copy of {short_id(adapter.twin_of)}", "", title=same, data_testid="copy")
        self._name.say(adapter.name)
        self._score.clear()
        if adapter.benchmark is not None:
            with self._score:
                link(score_words(adapter.benchmark), f"/benchmark/{adapter.benchmark.run_id}")
        self._tags.clear()
        with self._tags:
            for tag in adapter.tags:
                chip(tag, "minor", data_testid="tag")
        self._losses.say(losses(adapter.metrics) if adapter.is_valid or adapter.metrics else "")
        self._data.say(_made_of(adapter))
        self._size.say(format_bytes(adapter.size_bytes) if adapter.is_valid or adapter.sha256 else "")
        self._activate.show(adapter.is_valid and not adapter.is_active)
        self._reason.say(adapter.invalid_reason or "").show(not adapter.is_valid)
        if self._details is not None:
            await self._details.show(adapter)

    async def open(self) -> None:
        """Show the details."""
        if self._details is None:
            self._box.clear()
            with self._box:
                self._details = AdapterDetailsView(self._services, self._around, self._adapter)
            self._more.put(aria_expanded="true").say("Close")
            await self._details.show(self._adapter)

    async def _toggle(self) -> None:
        if self._details is None:
            self._around.opened(self._adapter)
            await self.open()
            return
        self._details = None
        self._box.clear()
        self._more.put(aria_expanded="false").say("Details")
        self._around.opened(None)

    # ----------------------------------------------------------------------------------- switching

    async def _switch(self) -> None:
        adapter = await self._now()
        if adapter is not None and adapter.gate == "held-back":
            self._ask_force()
        elif adapter is not None:
            await self._try(force=False)

    async def _now(self) -> LoRAAdapter | None:
        """Return the adapter's current state, because the gate may have decided since the row was drawn."""
        try:
            return await self._services.lora.get(self._adapter.id)
        except TmdeError as error:
            self._problem.say(sentence(error)).show()
            return None

    async def _try(self, *, force: bool, base: str | None = None) -> TmdeError | None:
        """Activate the adapter and show a refusal below the line.

        Args:
            force: activate it although the gate holds it back.
            base: the base model to which the person says that it belongs.
        """
        self._problem.show(visible=False)
        self._same.show(visible=False)
        self._activate.say("Activating …").put(disabled=True)
        refusal: TmdeError | None = None
        try:
            await self._services.lora.activate(self._adapter.id, force=force, base=base)
        except TmdeError as error:
            refusal = error
            self._problem.say(sentence(error)).show()
            self._served_base = str(error.context.get("servedBase", ""))
            self._same.show(bool(self._served_base and error.context.get("sizesFit")))
        finally:
            self._activate.say("Activate").put(disabled=False)
        await self._around.changed()
        return refusal

    def _ask_same(self) -> None:
        ask_once(
            self.element,
            "Are both the same base model?",
            f"The adapter says {self._adapter.base_model}, and the Proposer's model is {self._served_base}. No size of its "
            "matrices speaks against it. If it was trained on another model of this size, its answers will be nonsense.",
            "Your answer is kept with the adapter.",
            yes="They are the same: activate",
            no="Cancel",
            doing="Activating …",
            deed=lambda: self._try(force=self._adapter.gate == "held-back", base=self._served_base),
            test="same",
        )

    def _ask_force(self) -> None:
        ask_once(
            self.element,
            "Activate an adapter that is held back?",
            f"In the benchmark, adapter {self._adapter.name} was worse than the version without it. You can still activate it. "
            "The forced activation is recorded on the adapter and in the audit trail.",
            yes="Activate by force",
            no="Cancel",
            doing="Activating …",
            deed=lambda: self._try(force=True),
            test="force",
        )


def _made_of(adapter: LoRAAdapter) -> str:
    if not adapter.is_valid and not adapter.sha256:
        return ""
    return count(adapter.traces_used, "trace") if adapter.traces_used else "–"
