"""Plugins: found as installed packages, checked hook by hook, and no one's defect is another's."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tmde_core.errors import InvalidInputError, NotFoundError, PluginUnavailableError
from tmde_core.plugins import MAX_DESCRIPTORS, PluginInfo, Plugins, create
from tmde_core.plugins.making import read_settings
from tmde_core.records.runtimes import Availability
from tmde_core.runtimes import Runtimes
from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginSettings
from tmde_core.sdk.hooks import HOOKS
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.testing import ScriptedRuntime, scripted_plugins, scripted_settings

FIXTURE = Path(__file__).parents[1] / "fixture_plugin"
VARIANTS = ("good", "import_broken", "misspelt_hook", "name_conflicting")

# The log of import failures goes to the same stream; the last line is the answer.
PRINT_INFOS = """
import msgspec, sys
from tmde_core.plugins import Plugins
sys.stdout.buffer.write(b"\\n" + msgspec.json.encode(Plugins.load().infos()))
"""


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed the four variants of the fixture plugin."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target = shared / "third_party"
    with (shared / "third_party.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
            ]
            subprocess.run([*command, "--target", target, *(FIXTURE / name for name in VARIANTS)], check=True)
    return target


def infos_with(*paths: Path, home: Path) -> dict[str, dict[str, Any]]:
    """What a fresh interpreter says of its plugins when `paths` are on its path; by name."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", PRINT_INFOS], env=environment, capture_output=True, check=True)
    return {info["name"]: info for info in json.loads(done.stdout.splitlines()[-1])}


def test_four_installed_strangers_are_each_told_apart(third_party: Path, tmp_path: Path):
    infos = infos_with(third_party, home=tmp_path)

    good = infos["acme"]
    assert (good["status"], good["problems"]) == ("ok", [])
    assert (good["distribution"], good["version"], good["module"]) == ("tmde-acme", "1.2.3", "acme")
    assert {(item["kind"], item["name"]) for item in good["provides"]} == {
        ("judge", "length"),
        ("benchmark suite", "acme-sums"),
        ("model runtime", "acme"),
    }

    broken = infos["acme_broken"]
    assert (broken["status"], broken["provides"]) == ("broken", [])
    assert broken["distribution"] == "tmde-acme-broken"
    assert broken["problems"] == [
        {"stage": "import", "detail": "ModuleNotFoundError: No module named 'a_library_that_nobody_installed'"}
    ]

    misspelt = infos["acme_misspelt"]
    assert misspelt["status"] == "degraded"
    assert [item["name"] for item in misspelt["provides"]] == ["strict"]
    (problem,) = misspelt["problems"]
    assert problem["stage"] == "register"
    assert "No hook is called tmde_benchmark_suite;" in problem["detail"]
    assert "tmde_benchmark_suites" in problem["detail"]

    rival = infos["acme_rival"]
    assert rival["status"] == "degraded"
    assert [item["name"] for item in rival["provides"]] == ["generous"]
    (problem,) = rival["problems"]
    assert problem["stage"] == "conflict"
    assert "'length'" in problem["detail"]
    assert "'acme'" in problem["detail"]
    assert "'acme_rival'" in problem["detail"]


def test_the_built_in_plugins_come_by_the_same_road_and_have_no_problems(third_party: Path, tmp_path: Path):
    infos = infos_with(third_party, home=tmp_path)
    for name in ("cpu", "bench_default", "runtime_http"):
        assert infos[name]["problems"] == []
        assert infos[name]["provides"]
        assert infos[name]["distribution"] == f"tmde-{name.replace('_', '-')}"


def test_a_plugin_that_comes_or_goes_is_seen_at_the_next_start_and_nothing_is_cached_in_the_home(
    third_party: Path, tmp_path: Path
):
    home = tmp_path / "home"
    home.mkdir()
    assert "acme" not in infos_with(home=home)
    assert "acme" in infos_with(third_party, home=home)
    assert "acme" not in infos_with(home=home)
    assert list(home.rglob("*")) == []


IMPORT_FAILURES = {
    "assertion": ("assert 1 == 2, 'the world is out of order'", "AssertionError: the world is out of order"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "syntax": ("def", "SyntaxError: invalid syntax"),
    "base": ("raise BaseException('odd')", "BaseException: odd"),
    "silent": ("raise RuntimeError", "RuntimeError"),
    "interrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "speechless": ("class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute", "Mute"),
    "surrogate": ("raise RuntimeError('a\\udcffb')", "RuntimeError: a?b"),
}


@pytest.mark.parametrize(("source", "said"), IMPORT_FAILURES.values(), ids=IMPORT_FAILURES)
def test_whatever_an_import_raises_is_recorded_and_the_others_load(source: str, said: str, tmp_path: Path):
    package(tmp_path, "hostile", source)
    infos = infos_with(tmp_path, home=tmp_path)
    assert infos["hostile"]["status"] == "broken"
    assert infos["hostile"]["problems"][0]["stage"] == "import"
    assert infos["hostile"]["problems"][0]["detail"].startswith(said)
    assert infos["bench_default"]["status"] == "ok"


DAMAGED = {
    "bytes": (b"Name: zz_damaged\nVersion: 1\nSummary: \xff\xfe\n", "(UnicodeDecodeError)"),
    "nameless": (b"Metadata-Version: 2.1\n", "(it has no name)"),
}


@pytest.mark.parametrize(("metadata", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_package_with_broken_metadata_is_recorded_and_the_others_load(metadata: bytes, why: str, tmp_path: Path):
    package(tmp_path, "zz_damaged", "")
    (tmp_path / "zz_damaged-1.dist-info" / "METADATA").write_bytes(metadata)
    infos = infos_with(tmp_path, home=tmp_path)
    said = f"The package 'zz_damaged' is damaged: its METADATA cannot be read {why}. Reinstall it."
    assert infos["zz_damaged"]["problems"][0] == {"stage": "import", "detail": said}
    assert infos["bench_default"]["status"] == "ok"


def test_a_real_interrupt_while_a_plugin_is_imported_is_still_an_interrupt(tmp_path: Path):
    package(tmp_path, "slow", "import signal; signal.raise_signal(signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-c", PRINT_INFOS],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert b"KeyboardInterrupt" in done.stderr


def test_an_entry_point_that_names_nothing_is_recorded(tmp_path: Path):
    package(tmp_path, "hollow", "", value="hollow:plugin")
    assert "plugin" in infos_with(tmp_path, home=tmp_path)["hollow"]["problems"][0]["detail"]


def test_two_packages_with_one_plugin_name_are_named_both(third_party: Path, tmp_path: Path):
    package(tmp_path, "zz_copy", "", entry="acme")
    done = subprocess.run(
        [sys.executable, "-c", PRINT_INFOS],
        env={**os.environ, "PYTHONPATH": f"{third_party}{os.pathsep}{tmp_path}"},
        capture_output=True,
        check=True,
    )
    first, second = (info for info in json.loads(done.stdout.splitlines()[-1]) if info["name"] == "acme")
    assert first["status"] == "ok"
    assert second["status"] == "broken"
    assert "'tmde-acme'" in second["problems"][0]["detail"]
    assert "'zz_copy'" in second["problems"][0]["detail"]


def package(directory: Path, module: str, source: str, *, value: str = "", entry: str = "") -> None:
    """Lay out a module with the metadata that pip would leave."""
    (directory / f"{module}.py").write_text(source)
    metadata = directory / f"{module}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[tmde.plugins]\n{entry or module} = {value or module}\n")


# ---------------------------------------------------------------------------------- what a hook may do


class AnyJudge:
    """A judge to name; never asked."""


def judge(name: Any = "fair", **changes: Any) -> JudgeDescriptor:
    return JudgeDescriptor(**{"name": name, "summary": "a judge", "create": AnyJudge, **changes})


def offering(function: Callable[..., Any], name: str = "tmde_judges", **options: Any) -> SimpleNamespace:
    """A plugin whose hook `name` is `function`."""
    return SimpleNamespace(**{name: hookimpl(function, **options)})


def only_problem(plugin: object) -> str:
    """The one problem of a plugin; another plugin beside it must not notice."""
    plugins = Plugins()
    info = plugins.add("odd", plugin)
    bystander = plugins.add("bystander", offering(lambda: [judge("untouched")]))
    assert (bystander.status, plugins.judges.names()) == ("ok", sorted({"untouched", *names(info)}))
    (problem,) = info.problems
    return problem.detail


def names(info: PluginInfo) -> list[str]:
    return [item.name for item in info.provides]


def test_a_hook_that_raises_is_named():
    def tmde_judges() -> list[JudgeDescriptor]:
        raise ValueError("no license file")

    assert only_problem(offering(tmde_judges)) == "tmde_judges raised ValueError: no license file"


def test_a_hook_that_ends_the_process_does_not():
    assert only_problem(offering(lambda: sys.exit("bye"))) == "tmde_judges raised SystemExit: bye"


def test_control_c_is_still_control_c():
    def tmde_judges() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Plugins().add("slow", offering(tmde_judges))


def test_a_hook_with_arguments_is_named():
    assert "asks for the argument 'request'" in only_problem(offering(lambda request: []))


def test_an_asynchronous_hook_is_named():
    async def tmde_judges() -> list[JudgeDescriptor]:
        return [judge()]

    assert "asynchronous" in only_problem(offering(tmde_judges))


def test_an_asynchronous_generator_is_named():
    async def tmde_judges() -> Any:
        yield judge()

    assert "returned a async_generator" in only_problem(offering(tmde_judges))


def test_a_wrapper_is_refused():
    def tmde_judges() -> Iterator[None]:
        yield

    assert "wrapper" in only_problem(offering(tmde_judges, wrapper=True))


@pytest.mark.parametrize("returned", [judge(), "fair", {"fair": judge()}, 7])
def test_what_is_no_list_is_named(returned: object):
    assert only_problem(offering(lambda: returned)).endswith("where a list of JudgeDescriptor belongs.")


def test_a_descriptor_of_another_kind_is_named_and_its_neighbours_are_kept():
    suite = SuiteDescriptor(name="s", summary="s", questions=tuple)
    plugins = Plugins()
    info = plugins.add("odd", offering(lambda: [judge("one"), suite, judge("two")]))
    assert (info.status, names(info)) == ("degraded", ["one", "two"])
    assert info.problems[0].detail == "tmde_judges returned a SuiteDescriptor where a JudgeDescriptor belongs."


@pytest.mark.parametrize("name", ["", "Fair", "a b", "../etc", "-x", "x" * 41, None, 5, "é", "a\n"])
def test_a_name_that_settings_and_urls_cannot_carry_is_refused(name: object):
    assert "a name is 1 to 40" in only_problem(offering(lambda: [judge(name)]))


@pytest.mark.parametrize("name", ["auto", "none"])
def test_a_judge_cannot_take_a_word_of_the_settings(name: str):
    assert "meaning of its own" in only_problem(offering(lambda: [judge(name)]))


def test_a_descriptor_that_cannot_make_anything_is_refused():
    assert "has a create that cannot be called" in only_problem(offering(lambda: [judge(create=None)]))
    assert "has no summary" in only_problem(offering(lambda: [judge(summary=None)]))


def test_a_generator_that_never_ends_is_cut_off():
    def tmde_judges() -> Iterator[JudgeDescriptor]:
        number = 0
        while True:
            number += 1
            yield judge(f"judge-{number}")

    plugins = Plugins()
    info = plugins.add("endless", offering(tmde_judges))
    assert len(info.provides) == MAX_DESCRIPTORS
    assert "more than 100" in info.problems[0].detail


def test_a_generator_that_fails_half_way_keeps_what_it_offered():
    def tmde_judges() -> Iterator[JudgeDescriptor]:
        yield judge("first")
        raise OSError("disk gone")

    info = Plugins().add("half", offering(tmde_judges))
    assert (names(info), info.problems[0].detail) == (["first"], "tmde_judges raised OSError: disk gone")


def test_one_name_twice_in_one_plugin_is_named():
    assert "twice" in only_problem(offering(lambda: [judge(), judge()]))


def test_a_forgotten_mark_is_named():
    assert "not marked with @hookimpl" in only_problem(SimpleNamespace(tmde_judges=list))


def test_a_plugin_without_hooks_is_named():
    assert "implements no hook" in only_problem(SimpleNamespace())


def test_a_wrong_hook_leaves_the_good_ones_of_the_same_plugin():
    plugin = offering(lambda: [judge()])
    plugin.tmde_benchmark_suites = hookimpl(lambda size: [])
    info = Plugins().add("half", plugin)
    assert (info.status, names(info), info.problems[0].stage) == ("degraded", ["fair"], "register")


def test_an_object_that_resists_inspection_is_named():
    class Hostile:
        @property
        def tmde_judges(self) -> Any:
            raise RuntimeError("do not touch")

    assert only_problem(Hostile())


def test_a_hook_by_another_function_name_is_called():
    info = Plugins().add("renamed", offering(lambda: [judge()], name="my_judges", specname="tmde_judges"))
    assert (info.status, names(info)) == ("ok", ["fair"])


def test_a_missing_thing_names_what_there_is():
    plugins = Plugins()
    plugins.add("one", offering(lambda: [judge("b"), judge("a")]))
    with pytest.raises(PluginUnavailableError, match=r"no judge called 'c'; available: a, b\.") as caught:
        plugins.judges.get("c")
    assert caught.value.context["available"] == ["a", "b"]
    assert plugins.judges.provider("a") == "one"


def test_auto_without_a_default_says_what_to_install():
    plugins = Plugins()
    with pytest.raises(PluginUnavailableError) as caught:
        plugins.judges.get("auto")
    assert caught.value.detail == "No installed plugin provides a default judge. Install a plugin that offers one."
    plugins.add("one", offering(lambda: [judge("b"), judge("a")]))
    with pytest.raises(InvalidInputError) as refused:
        plugins.judges.choose("auto", "judge")
    assert refused.value.detail == (
        "judge: No installed plugin provides a default judge. Install a plugin that offers one, or name one of: a, b."
    )


# ---------------------------------------------------------------------------------- what `create` may do


def test_whatever_create_raises_is_one_sentence(tmp_path: Path):
    def raising(_: object) -> Any:
        raise LookupError("no such voice")

    settings = scripted_settings(tmp_path)
    with pytest.raises(PluginUnavailableError) as caught:
        create(judge(create=raising), settings)
    assert caught.value.detail == (
        "The judge 'fair' cannot be created: its plugin raised LookupError: no such voice. Update or uninstall the plugin."
    )
    with pytest.raises(PluginUnavailableError, match="its plugin returned nothing"):
        create(judge(create=lambda _: None), settings)
    with pytest.raises(PluginUnavailableError, match="its plugin raised SystemExit: 3"):
        create(judge(create=lambda _: sys.exit(3)), settings)
    with pytest.raises(NotFoundError, match="on purpose"):
        create(judge(create=lambda _: _raise(NotFoundError("on purpose"))), settings)


def _raise(error: Exception) -> Any:
    raise error


async def test_a_runtime_that_cannot_be_created_leaves_the_others(tmp_path: Path):
    plugins = scripted_plugins(ScriptedRuntime())
    for number, made in enumerate((lambda _: 1 / 0, lambda _: None, lambda _: object())):
        broken = RuntimeDescriptor(
            name=f"broken-{number}", summary="a runtime", create=made, availability=lambda _: Availability(ok=True)
        )
        plugins.add(f"broken-{number}", offering(lambda broken=broken: [broken], "tmde_model_runtimes"))
    assert len(plugins.runtimes.names()) == 4
    runtimes = Runtimes(plugins, scripted_settings(tmp_path))
    assert [model.name for model in await runtimes.models()] == ["scripted-1"]
    assert [report.status.state for report in await runtimes.reports()][1:] == ["failed"] * 3


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("no license"), OSError("disk gone")])
def test_settings_that_cannot_be_checked_are_named(error: BaseException):
    class Odd(PluginSettings, frozen=True, kw_only=True):
        def __post_init__(self) -> None:
            raise error

    with pytest.raises(InvalidInputError) as caught:
        read_settings({}, Odd, "judges.odd")
    assert caught.value.detail.startswith("In the settings, judges.odd: they cannot be checked: ")
    assert type(error).__name__ in caught.value.detail


def test_every_hook_has_a_kind_and_a_shelf():
    assert set(Plugins()._shelves) == {hook.descriptor for hook in HOOKS.values()}
