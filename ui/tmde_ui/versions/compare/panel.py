"""Compare two adapters: configuration, metrics, data, benchmark, and one question to both and the base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from tmde_core.errors import TmdeError
from tmde_core.records.lora import LoRAAdapter
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.forms import clear_on_input, on_submit
from tmde_ui.kit.words import sentence
from tmde_ui.versions.compare.ask import AskPanel
from tmde_ui.versions.compare.comparison import draw
from tmde_ui.versions.lineage import load_trace_names
from tmde_ui.versions.words import identity, option

OFFERED = 200
"""The selects offer this many of the newest adapters. An older one can be compared from its row in the list."""

SHOWN_TRACES = 20


class ComparePanel:
    """Lets a person choose A and B, compares them and asks them. The choice is part of the page's address."""

    def __init__(self, services: Services, changed: Callable[[], None]) -> None:
        self._services = services
        self._changed = changed
        self._adapters: dict[UUID, LoRAAdapter] = {}
        self._words: tuple[tuple[UUID, str], ...] = ()
        self._picked: tuple[UUID | None, UUID | None] = (None, None)
        """The selected values of both selects, as drawn."""
        self.a: UUID | None = None
        self.b: UUID | None = None
        self.ask_id: UUID | None = None
        self._compared: tuple[UUID, UUID] | None = None
        """The adapters of the comparison that is shown."""
        with Tag(
            "section", classes="card stack", aria_label="Compare two adapters", data_testid="compare"
        ) as self._section:
            Tag("h2", "Compare two adapters")
            self._few = Tag("p", classes="muted small", data_testid="too-few")
            with Tag("form", classes="comparing", novalidate=True) as self._form:
                self._select_a = self._choice("A", "compare-a")
                self._select_b = self._choice("B", "compare-b")
                self._go = button("Compare", type_="submit", test="compare-them")
            self._problem = Tag("p", classes="notice bad", role="alert", data_testid="compare-problem").show(
                visible=False
            )
            self._result = Tag("div", classes="stack maybe", data_testid="comparison")
            self._ask = AskPanel(services, self._versions, self._asked)
        on_submit(self._form, self._submit)
        clear_on_input(self._form, lambda: self._problem.show(visible=False))

    def _choice(self, label: str, name: str) -> Tag:
        with Tag("div", classes="field"):
            Tag("label", label, for_=name)
            select = Tag("select", classes="input", id=name, name=name[-1], data_testid=name)
        select.on("change", self._pick, js_handler="(event) => emit(event.target.name, event.target.value)")
        return select

    def _pick(self, event: object) -> None:
        args = getattr(event, "args", None)
        if isinstance(args, list) and len(args) == 2 and args[0] in ("a", "b"):
            chosen = identity(args[1])
            if chosen in self._adapters:
                setattr(self, args[0], chosen)
                # The browser already shows the choice. Redrawing the selects would undo the next choice.
                self._picked = (self.a, self.b)
                self._ask.update_chosen()

    def _versions(self) -> Sequence[UUID | None]:
        return tuple(dict.fromkeys((None, *(one for one in (self.a, self.b) if one is not None))))

    def _asked(self, ask_id: UUID | None) -> None:
        self.ask_id = ask_id
        self._changed()

    @property
    def compared(self) -> bool:
        """Whether a comparison is shown."""
        return self._compared is not None

    # -------------------------------------------------------------------------------------- choosing

    def show(self, adapters: Sequence[LoRAAdapter]) -> None:
        """Offer these adapters."""
        sound = [adapter for adapter in adapters if adapter.is_valid]
        self._adapters = {adapter.id: adapter for adapter in sound}
        if self.a not in self._adapters or self.b not in self._adapters:
            self._suggest(sound)
        enough = len(sound) > 1
        self._few.say("" if enough else "A comparison needs two valid adapters.")
        self._few.show(not enough)
        self._form.show(enough)
        self._offer()
        self._ask.update_chosen()
        self._drop_if_gone({adapter.id for adapter in adapters})

    def _drop_if_gone(self, existing: set[UUID]) -> None:
        """Remove a comparison of which an adapter was deleted."""
        if self._compared is None or existing.issuperset(self._compared):
            return
        self._compared = None
        self._result.clear()
        with self._result:
            Tag(
                "p",
                "A compared adapter was deleted, so its comparison is gone.",
                "muted",
                data_testid="comparison-gone",
            )
        self._changed()

    def _suggest(self, sound: Sequence[LoRAAdapter]) -> None:
        """Choose A and B: earlier choices first, then the active adapter, then the newest ones."""
        kept = [one for one in (self.a, self.b) if one in self._adapters]
        active = [one.id for one in sound if one.is_active]
        rest = list(dict.fromkeys((*kept, *active, *(one.id for one in sound))))
        self.a = rest[0] if rest else None
        self.b = rest[1] if len(rest) > 1 else None

    def _offer(self) -> None:
        """Fill both selects if their options or the choice have changed."""
        chosen = [self._adapters[one] for one in (self.a, self.b) if one is not None]
        newest = list(self._adapters.values())[:OFFERED]
        words = tuple({one.id: option(one) for one in (*newest, *chosen)}.items())
        if (words, (self.a, self.b)) == (self._words, self._picked):
            return
        self._words, self._picked = words, (self.a, self.b)
        for select, picked in ((self._select_a, self.a), (self._select_b, self.b)):
            select.clear()
            with select:
                for adapter_id, text in words:
                    Tag("option", text, value=str(adapter_id), selected=adapter_id == picked)

    async def choose(self, a: UUID | None, b: UUID | None) -> None:
        """Choose these adapters if they exist, and compare them."""
        if a in self._adapters:
            self.a = a
        if b in self._adapters:
            self.b = b
        if self.a == self.b:
            self.a = next((one for one in self._adapters if one != self.b), None)
        self._offer()
        self._ask.update_chosen()
        await self._compare()

    async def resume(self, ask_id: UUID) -> None:
        """Show an earlier question."""
        self.ask_id = ask_id
        await self._ask.resume(ask_id)

    def into_view(self) -> None:
        """Scroll the panel into view."""
        self._section.bring_into_view("start")

    # ------------------------------------------------------------------------------------- comparing

    async def _submit(self, fields: dict[str, str]) -> None:
        self.a = identity(fields.get("a")) or self.a
        self.b = identity(fields.get("b")) or self.b
        self._ask.update_chosen()
        await self._compare()

    async def _compare(self) -> None:
        self._problem.show(visible=False)
        if self.a is None or self.b is None or self.a == self.b:
            self._problem.say("Choose two different adapters.").show()
            return
        self._go.say("Comparing …").put(disabled=True)
        try:
            found = await self._services.lora.compare(self.a, self.b)
            added = await load_trace_names(self._services, found.traces_added, SHOWN_TRACES)
            removed = await load_trace_names(self._services, found.traces_removed, SHOWN_TRACES)
        except TmdeError as error:
            self._result.clear()
            self._compared = None
            self._problem.say(sentence(error)).show()
            return
        finally:
            self._go.say("Compare").put(disabled=False)
        self._compared = (self.a, self.b)
        self._changed()
        self._result.clear()
        with self._result:
            draw(found, added, removed)
