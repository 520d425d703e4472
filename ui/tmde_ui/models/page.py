"""`/models`: which model answers for each role, the base models, and how to get another one."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.models.belonging import count_adapters
from tmde_core.records.models import BaseModel
from tmde_core.runtimes import RuntimeReport
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.tending import draw_part, poll, start_task
from tmde_ui.kit.words import count
from tmde_ui.models.bases import BaseList
from tmde_ui.models.getting import GetModel
from tmde_ui.models.roles import RolePickers
from tmde_ui.models.words import describe_silence


def register(site: Site) -> None:
    """Register the page with the app."""

    @page("/models", site)
    async def models(get: str = "") -> None:
        with frame(site, "Models", here="/models"), Tag("div", classes="stack wide"):
            ModelsPage(site).build(get.strip())


class ModelsPage:
    """Draws the page at once, and fills in what the runtimes tell when they have told it."""

    def __init__(self, site: Site) -> None:
        self._services = site.services
        self._roles = site.services.settings.roles

    def build(self, wanted: str = "") -> None:
        """Draw the page and start to fill it.

        Args:
            wanted: a model of the hub to show a plan for, such as `Qwen/Qwen3-4B-GGUF:Q4_K_M`; empty: none.
        """
        self._get = GetModel(self._services, self._arrived, wanted)
        with Tag("div", classes="stack tight"):
            with Tag("div", classes="line spread"):
                Tag("h1", "Models")
                link("Get a model", "#get", "button primary")
            Tag("p", "A change takes effect with the next debate.", "muted")
        with Tag("section", classes="stack", aria_label="Who answers"):
            Tag("h2", "Who answers")
            self._pickers = RolePickers(self._services, self.refill)
            self._pickers.build()
        with Tag("section", classes="stack", aria_label="Base models"):
            self._title = Tag("h2", "Base models")
            dialogs = Tag("div", classes="maybe")
            self._list = BaseList(self._services, self._pickers.use, self.refill, self._get.ask, dialogs)
            with Tag("div", data_testid="base-models") as self._place:
                Tag("p", "Asking the runtimes …", "muted")
            self._away = Tag("div", classes="stack tight maybe", data_testid="away")
        with Tag("section", classes="stack", id="get", aria_label="Get a model", tabindex="-1"):
            Tag("h2", "Get a model")
            self._get.build()
        start_task(self.refill, "list the models")
        start_task(self._tell_away, "look at the runtimes")
        start_task(self._pickers.tell_adapter, "see whether the adapter belongs to the Proposer's model")
        start_task(lambda: poll(self._look, "models"), "look after the page of models")

    async def refill(self) -> None:
        """Read all models again and draw them."""
        await draw_part(self._fill(), self._place)

    async def _arrived(self) -> None:
        await self.refill()
        await self._get.refill()

    async def _fill(self) -> None:
        bases = await self._services.models.list(quick=True)
        adapters = await self._services.lora.list()
        self._roles = self._services.settings.roles
        self._pickers.fill(bases)
        self._title.say(_title(bases))
        self._place.clear()
        with self._place:
            self._list.draw(count_adapters(bases, [one.base_model for one in adapters]))

    async def _tell_away(self) -> None:
        await draw_part(self._fill_away(), self._away)

    async def _fill_away(self) -> None:
        reports = await self._services.runtimes.reports()
        self._away.clear()
        with self._away:
            _draw_away([(report, why) for report in reports if (why := describe_silence(report))])

    async def _look(self) -> None:
        """Draw the page again if somebody has changed the roles elsewhere."""
        if self._services.settings.roles != self._roles:
            await self.refill()
            await self._pickers.tell_adapter()


def _title(bases: Sequence[BaseModel]) -> str:
    return count(len(bases), "base model")


def _draw_away(away: Sequence[tuple[RuntimeReport, str]]) -> None:
    if not away:
        return
    Tag("h3", "Runtimes that do not respond")
    with Tag("ul", classes="away"):
        for report, why in away:
            with Tag("li", classes="small", data_testid=f"away-{report.name}"):
                Tag("strong", f"{report.name}: ")
                Tag("span", why, "muted")
