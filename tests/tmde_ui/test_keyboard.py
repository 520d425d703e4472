"""Every page by keyboard: Tab reaches everything that can be operated, and the focus can always be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.tmde_ui.keyboard import check, check_dialog, walk

pytestmark = pytest.mark.slow

TRACE = "/traces/00000000-0000-0000-0000-000000000001"


class Debates:
    """Traces, a debate that has ended, and one that waits amid the Proposer's answer."""

    def __init__(self, directory: Path, scripted_server: Any, _training_server: Any) -> None:
        self.server = scripted_server(directory)
        self.server.do("traces", number=30)
        self.pages = {"ask": "/", "traces": "/traces", "trace": TRACE, "plugins": "/plugins"}

    def rest(self) -> None:
        self.server.do("open")
        self.server.do("settled")
        self.server.do("close")


class Training:
    """A run that has ended, and enough traces for the next one."""

    def __init__(self, directory: Path, _scripted_server: Any, training_server: Any) -> None:
        self.server = training_server(directory)
        self.server.do("traces", number=130)
        run = self.server.run(steps=3)
        self.server.idle()
        self.pages = {"training": "/finetune", "run": f"/finetune/{run}"}

    def rest(self) -> None:
        self.server.idle()


class Versions:
    """Three adapters, of which one is active, and two notifications."""

    def __init__(self, directory: Path, scripted_server: Any, _training_server: Any) -> None:
        self.server = scripted_server(directory, "tests.tmde_ui.versions.server")
        adapters = [self.server.do("publish", age=age, tags=["good"]) for age in (1, 2, 3)]
        self.server.do("activate", id=adapters[0])
        self.pages = {
            "versions": "/finetune/versions",
            "compared": f"/finetune/versions?a={adapters[0]}&b={adapters[1]}",
        }

    def rest(self) -> None:
        pass


class Benchmarks:
    """A baseline, and an adapter that was measured and activated."""

    def __init__(self, directory: Path, scripted_server: Any, _training_server: Any) -> None:
        self.server = scripted_server(directory, "tests.tmde_ui.benchmark.server", "0", "few")
        base = self.server.do("run", base=True)
        adapter = self.server.do("adapter", knows=0.9)
        self.server.do("judge", adapter=adapter)
        self.server.do("activate", adapter=adapter)
        self.pages = {"benchmark": "/benchmark", "measured": f"/benchmark/{base}"}

    def rest(self) -> None:
        self.server.do("open")
        self.server.do("settled")


class Models:
    """Base models of two runtimes, and one that does not respond."""

    def __init__(self, directory: Path, scripted_server: Any, _training_server: Any) -> None:
        self.server = scripted_server(directory, "tests.tmde_ui.models.server")
        self.pages = {"models": "/models", "newcomer": "/"}

    def rest(self) -> None:
        pass


WORLDS = {"debates": Debates, "models": Models, "training": Training, "versions": Versions, "benchmarks": Benchmarks}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, scripted_server, training_server) -> Iterator[Callable[[str], Any]]:
    """Begin a world when a test first asks for it. All worlds go on until the last test of the module has ended."""
    begun: dict[str, Any] = {}

    def world(name: str) -> Any:
        if name not in begun:
            begun[name] = WORLDS[name](tmp_path_factory.mktemp("data"), scripted_server, training_server)
        return begun[name]

    yield world
    for one in begun.values():
        one.server.stop()


@pytest.fixture
def world(request: pytest.FixtureRequest, worlds) -> Iterator[Any]:
    """The world that the test asks for. What a test leaves running has ended before the next test."""
    begun = worlds(request.param)
    yield begun
    begun.rest()


@pytest.fixture
def server(world) -> Any:
    return world.server


def open_details(page: Page) -> None:
    """Show what buttons unfold: the details of an adapter and the options."""
    for button in page.get_by_test_id("details").all():
        button.click()
        expect(button).to_have_attribute("aria-expanded", "true")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (380, True)], ids=["wide-light", "narrow-dark"])
@pytest.mark.parametrize(
    ("world", "name"),
    [
        ("debates", "ask"),
        ("debates", "traces"),
        ("debates", "trace"),
        ("debates", "plugins"),
        ("models", "models"),
        ("models", "newcomer"),
        ("training", "training"),
        ("training", "run"),
        ("versions", "versions"),
        ("versions", "compared"),
        ("benchmarks", "benchmark"),
        ("benchmarks", "measured"),
    ],
    indirect=["world"],
)
def test_tab_reaches_everything_on_a_page_and_the_focus_is_always_seen(open_page, world, name, width, dark):
    page = open_page(world.pages[name], width=width, dark=dark)
    expect(page.locator("main h1").first).to_be_visible()
    open_details(page)
    check(page)


@pytest.mark.parametrize("world", ["debates"], indirect=True)
def test_tab_reaches_everything_while_a_debate_runs_and_when_it_has_ended(open_page, server):
    page = open_page("/")
    page.get_by_test_id("query").fill("Is it slow and hostile?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn.live")).to_be_visible()
    check(page)
    server.do("open")
    server.do("settled")
    expect(page.locator(".scale").first).to_be_visible()
    check(page)


@pytest.mark.parametrize("world", ["training"], indirect=True)
def test_tab_reaches_everything_while_a_training_runs(open_page, server):
    server.run(steps=3)
    page = open_page("/finetune")
    expect(page.get_by_test_id("cancel-run")).to_be_visible()
    check(page)


@pytest.mark.parametrize("world", ["benchmarks"], indirect=True)
def test_tab_reaches_everything_while_a_benchmark_runs(open_page, server):
    server.do("hold", after=2)
    server.do("start", base=True)
    page = open_page("/benchmark")
    expect(page.get_by_test_id("cancel-benchmark")).to_be_visible()
    check(page)


@pytest.mark.parametrize("world", ["benchmarks"], indirect=True)
@pytest.mark.parametrize("tab", ["runs", "domains", "activations", "questions", "automatic"])
def test_tab_reaches_everything_behind_the_tabs_of_the_benchmarks(open_page, world, tab):
    page = open_page("/benchmark")
    page.get_by_test_id("tab-runs").focus()
    for _ in range(["runs", "domains", "activations", "questions", "automatic"].index(tab)):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id(f"tab-{tab}")).to_be_focused()
    expect(page.locator(f"#panel-{tab}")).to_be_visible()
    check(page)


@pytest.mark.parametrize(
    ("world", "name", "opener"),
    [
        ("debates", "traces", "import"),
        ("debates", "trace", "withdraw"),
        ("debates", "trace", "delete-trace"),
        ("models", "models", "use"),
        ("training", "training", "run-now"),
        ("versions", "versions", "import"),
        ("benchmarks", "benchmark", "run-benchmark"),
        ("benchmarks", "measured", "delete"),
    ],
    indirect=["world"],
)
def test_a_dialog_is_opened_walked_through_and_left_by_keyboard(open_page, world, name, opener):
    page = open_page(world.pages[name])
    check_dialog(page, opener)


# ------------------------------------------------------------------------------------- where the focus stays


@pytest.mark.parametrize("world", ["debates"], indirect=True)
def test_the_focus_follows_a_question_to_its_answer(open_page, server):
    server.do("open")
    page = open_page("/")
    page.keyboard.type("Is it easy?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".scale").first).to_be_visible()
    expect(page.locator("#main")).to_be_focused()


@pytest.mark.parametrize("world", ["debates"], indirect=True)
def test_the_focus_goes_to_the_correction_and_back(open_page, world):
    page = open_page(TRACE)
    page.get_by_test_id("correct").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("correction")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("correct")).to_be_focused()


@pytest.mark.parametrize("world", ["debates"], indirect=True)
def test_the_focus_stays_on_the_button_that_turns_pages_and_on_the_other_at_the_end(open_page, world):
    page = open_page("/traces")
    page.get_by_test_id("older").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("range")).to_contain_text("26–")
    expect(page.get_by_test_id("newer")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("range")).to_contain_text("1–25")
    expect(page.get_by_test_id("older")).to_be_focused()


@pytest.mark.parametrize("world", ["versions"], indirect=True)
def test_the_focus_stays_on_a_button_that_works_for_a_while(open_page, world):
    page = open_page("/finetune/versions")
    page.get_by_test_id("details").first.click()
    verify = page.get_by_test_id("verify")
    verify.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("verified")).to_contain_text("unchanged")
    expect(verify).to_be_focused()
    off = page.get_by_test_id("deactivate")
    off.focus()
    page.keyboard.press("Enter")
    expect(off).to_be_hidden()
    expect(page.get_by_test_id("now")).to_be_focused()
    page.get_by_test_id("rollback").click()
    expect(off).to_be_visible()


@pytest.mark.parametrize("world", ["training"], indirect=True)
def test_the_focus_goes_to_the_run_that_was_started(open_page, server):
    server.order(steps=3)
    page = open_page("/finetune")
    page.get_by_test_id("run-now").focus()
    page.keyboard.press("Enter")
    page.get_by_test_id("start-run").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("training-progress")).to_be_focused()


@pytest.mark.parametrize("world", ["benchmarks"], indirect=True)
def test_the_focus_goes_to_the_benchmark_that_was_started(open_page, server):
    server.do("hold", after=2)
    page = open_page("/benchmark")
    page.get_by_test_id("run-benchmark").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("start-benchmark")).to_be_enabled()
    page.get_by_test_id("start-benchmark").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("benchmark-progress")).to_be_focused()


# ------------------------------------------------------------------------------------------ the walk itself


@pytest.mark.parametrize("world", ["debates"], indirect=True)
@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ("<button tabindex=-1>Lost</button>", "Tab does not reach it"),
        ("<button style='outline:none'>Unseen</button>", "nothing shows that it has the focus"),
        ("<div style='overflow:hidden;width:60px'><button>Cut off</button></div>", "its ring is cut off"),
        ("<div style='position:relative'><button>Under</button><i style='position:absolute;inset:0'></i></div>", "covers it"),
    ],
)  # fmt: skip
def test_the_walk_notices_what_is_wrong(open_page, world, markup, fault):
    page = open_page("/plugins")
    page.evaluate("markup => document.querySelector('main').insertAdjacentHTML('afterbegin', markup)", markup)
    assert any(fault in line for line in walk(page))
