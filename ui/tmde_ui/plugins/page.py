"""`/plugins`: the installed plugins, what they provide and their errors; training backends, runtimes and their models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tmde_core.plugins import PluginInfo
from tmde_core.records.runtimes import ModelInfo
from tmde_core.runtimes import RuntimeReport
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, chip
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.tending import draw_part, start_task
from tmde_ui.kit.words import count, format_bytes, plain
from tmde_ui.plugins.backends import BackendCards

T = TypeVar("T")

_STATUS = {"ok": ("works", "good"), "degraded": ("partly works", "major"), "broken": ("broken", "critical")}
_STATE = {
    "ready": "good",
    "failed": "critical",
    "restarting": "major",
    "starting": "accent",
    "stopped": "",
    "paused": "accent",
}
_STATE_WORDS = {"stopped": "not started"}
_STAGE = {
    "import": "It cannot be loaded",
    "register": "It does not match the hooks",
    "hook": "One of its hooks fails",
    "conflict": "A name is already in use",
}


def register(site: Site) -> None:
    """Register the page with the app."""
    services = site.services

    @page("/plugins", site)
    async def plugins() -> None:
        infos = services.plugins.infos()
        with frame(site, "Plugins", here="/plugins"), Tag("div", classes="stack wide"):
            with Tag("div", classes="stack tight"):
                Tag("h1", "Plugins")
                broken = sum(info.status != "ok" for info in infos)
                words = (
                    "All plugins work." if not broken else f"{count(broken, 'needs', 'need')} attention, listed first."
                )
                Tag("p", f"{count(len(infos), 'plugin')} installed. {words}" if infos else "", "muted")
            if not infos:
                with Tag("div", classes="card empty"):
                    Tag("h2", "No plugin is installed")
                    Tag(
                        "p",
                        "Without a plugin, there is no model. Install the package tmde-cpu and restart the server.",
                    )
            with Tag("div", classes="grid"):
                for info in sorted(infos, key=lambda info: (info.status == "ok", info.name)):
                    _plugin(info)
            BackendCards(services).build()
            runtimes = _section("Model runtimes")
            models = _section("Models")
            start_task(lambda: _fill(services, runtimes, models), "look at the runtimes")


def _section(title: str) -> Tag:
    with Tag("section", classes="stack", aria_label=title):
        Tag("h2", title)
        with Tag("div", data_testid=title.lower().replace(" ", "-")) as content:
            Tag("p", "Loading …", "muted")
    return content


async def _fill(services: Services, runtimes: Tag, models: Tag) -> None:
    """Fill in availability and models. Both may take a while, so the page is shown first."""
    await draw_part(_answer(runtimes, services.runtimes.reports(), _runtimes), runtimes)
    await draw_part(_answer(models, services.runtimes.models(), _models), models)


async def _answer(target: Tag, asked: Awaitable[Sequence[T]], show: Callable[[Sequence[T]], None]) -> None:
    try:
        found = await asked
    finally:  # a defect of the plugin is shown in place of its answer
        target.clear()
    with target:
        show(found)


def _plugin(info: PluginInfo) -> None:
    words, kind = _STATUS[info.status]
    with Tag("article", classes="card plugin", data_testid=f"plugin-{info.name}"):
        with Tag("div", classes="line spread"):
            Tag("h3", info.name)
            chip(words, kind)
        version = f"{info.distribution} {info.version}" if info.distribution else info.module
        Tag("p", version, "muted small")
        for problem in info.problems:
            with Tag("div", classes=f"notice {'bad' if info.status == 'broken' else 'warm'}", data_testid="problem"):
                Tag("strong", f"{_STAGE[problem.stage]}. ")
                Tag("span", problem.detail)
        if info.provides:
            with Tag("ul", classes="provides"):
                for provision in info.provides:
                    with Tag("li"):
                        with Tag("div", classes="line"):
                            Tag("strong", provision.name)
                            Tag("span", provision.kind, "kind")
                        Tag("p", provision.summary, "muted small")
                        if provision.settings:
                            with Tag("details", data_testid="settings"):
                                Tag("summary", count(len(provision.settings), "setting"), "small")
                                with Tag("ul", classes="provides"):
                                    for setting in provision.settings:
                                        with Tag("li", classes="small"):
                                            Tag("code", f"{setting.name} = {setting.default}")
                                            Tag("p", plain(setting.help), "muted small maybe")
        elif not info.problems:
            Tag("p", "It provides nothing.", "muted small")


def _runtimes(reports: Sequence[RuntimeReport]) -> None:
    if not reports:
        Tag("p", "No plugin provides a model runtime, so no debate can run. Install tmde-cpu.", "muted")
    with Tag("div", classes="grid"):
        for report in reports:
            with Tag("article", classes="card plugin", data_testid=f"runtime-{report.name}"):
                state = report.status.state
                with Tag("div", classes="line spread"):
                    Tag("h3", report.name)
                    if report.availability.ok:
                        chip(_STATE_WORDS.get(state, state), _STATE[state])
                    else:
                        chip("not available", "major")
                Tag("p", report.summary, "muted small")
                if not report.availability.ok:
                    Tag("p", report.availability.reason, "notice warm")
                elif state == "failed" and report.status.detail:
                    Tag("p", report.status.detail, "notice bad")
                memory = f"{format_bytes(report.status.rss_bytes)} of memory" if report.status.rss_bytes else ""
                facts = [report.status.detail if state != "failed" else "", memory]
                if report.status.restarts:
                    facts.append(count(report.status.restarts, "restart"))
                if report.status.adapters:
                    facts.append(f"{count(len(report.status.adapters), 'adapter')} loaded")
                Tag("p", " · ".join(fact for fact in facts if fact), "muted small maybe")
                if report.availability.ok and report.capabilities.adapters_note:
                    Tag("p", report.capabilities.adapters_note, "muted small", data_testid="adapters-note")


def _models(models: Sequence[ModelInfo]) -> None:
    if not models:
        Tag("p", "No runtime lists a model at the moment.", "muted")
        return
    with Tag("ul", classes="rows"):
        for model in models:
            with Tag("li"), Tag("div", classes="row brief", data_testid="model"):
                with Tag("div", classes="lead"):
                    Tag("span", model.name, "q")
                    details = (
                        model.runtime,
                        f"{model.context_length:,} tokens of context" if model.context_length else "",
                        model.detail,
                    )
                    Tag("span", " · ".join(detail for detail in details if detail), "a")
                Tag("span", "loaded" if model.loaded else "default" if model.default else "", "cell")
                Tag("span", format_bytes(model.size_bytes), "cell when")
