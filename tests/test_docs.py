"""The documentation names what there is: a hook, setting, command or variable that is missing from it fails here."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import typer
from typer.main import get_command

import tmde_core
import tmde_core.testing
from docs.settings_tables import TABLES, renewed
from tmde_core.cli.app import COMMANDS
from tmde_core.plugins import Plugins
from tmde_core.sdk import hookimpl, hooks, judges, registries, runtimes, suites, training
from tmde_core.sdk.context import PluginSettings
from tmde_core.settings import ENVIRONMENT, PLUGIN_TABLES, Roles, Settings, load_settings
from tmde_core.testing import contracts, fake_servers, make_context, plugin
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_runtime_http.options import OllamaSettings, OpenAISettings
from tools import screenshots

REPOSITORY = Path(__file__).parents[1]
DOCS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
PROSE_COLUMNS = 100
UNBREAKABLE = re.compile(r"^(\s*([-*]|\d+\.)\s+)?\S+$")
"""A line of one word, such as a link, cannot be broken."""


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------------------------------- plugins


@pytest.mark.parametrize("hook", list(hooks.HOOKS))
def test_every_hook_and_its_descriptor_are_documented(hook: str):
    assert f"| `{hook}` | `{hooks.HOOKS[hook].descriptor.__name__}` |" in page("plugins.md")


@pytest.mark.parametrize("port", ["TrainingBackend", "ModelRuntime", "Judge", "Question"])
def test_every_port_is_documented(port: str):
    assert any(port in module.__all__ for module in (judges, runtimes, suites, training))
    assert f"`{port}`" in page("plugins.md")


def test_hooks_is_every_function_that_is_marked():
    marked = [name for name in dir(hooks) if hasattr(getattr(hooks, name), "tmde_spec")]
    assert sorted([*hooks.HOOKS, hooks.OBSERVER]) == sorted(marked)


class Anything:
    """Stands for whatever an example's author has written elsewhere."""


@pytest.mark.parametrize("hook", list(hooks.HOOKS))
def test_the_example_in_each_hooks_docstring_runs(hook: str):
    _, _, example = (getattr(hooks, hook).__doc__ or "").partition("\n\n")
    source = textwrap.dedent(example)
    names: dict[str, Any] = {"hookimpl": hookimpl, "MySettings": PluginSettings}
    for module in (judges, registries, runtimes, suites, training):
        names |= {name: getattr(module, name) for name in dir(module)}
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    names |= dict.fromkeys(used - names.keys() - {hook}, Anything)
    exec(source, names)
    info = Plugins().add("example", SimpleNamespace(**{hook: names[hook]}))
    assert (info.status, len(info.provides), info.problems) == ("ok", 1, ())


async def test_the_plugin_on_the_page_works():
    names: dict[str, Any] = {"__name__": "acme"}
    exec(compile(blocks(page("plugins.md"), "python")[0], "acme", "exec", dont_inherit=True), names)
    plugins = Plugins()
    assert plugins.add("acme", SimpleNamespace(**names)).status == "ok"
    item, length = judges.JudgeItem(question="?", answer="x" * 200), plugins.judges.get("length")
    assert (await length.create(make_context(length.settings)).score(item, None)).score == 8.0
    project = tomllib.loads(blocks(page("plugins.md"), "toml")[0])
    assert project["project"]["entry-points"][hooks.ENTRY_POINT_GROUP] == {"judge_length": "tmde_judge_length"}


# ------------------------------------------------------------------------------------- testing plugins


def test_everything_that_authors_of_plugins_test_with_is_documented():
    text = page("testing-plugins.md")
    names = [*tmde_core.testing.__all__, *contracts.__all__, *plugin.__all__, *fake_servers.__all__]
    assert [name for name in names if f"`{name}`" not in text and not name.startswith("pytest_")] == []
    assert "| `--tmde-base-model PATH` |" in text


def test_names_that_the_page_imports_are_there():
    for block in blocks(page("testing-plugins.md"), "python"):
        for node in ast.parse(block).body:
            if isinstance(node, ast.ImportFrom) and node.module != "my_plugin":
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


# ------------------------------------------------------------------------------------------ settings


def shown(value: object) -> str:
    return "unset" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def settings() -> Iterator[tuple[str, object]]:
    """Every setting but roles and runtimes, with its default."""
    for name, value in msgspec.structs.asdict(Settings()).items():
        if name in ("roles", *PLUGIN_TABLES):
            continue
        if isinstance(value, msgspec.Struct):
            yield from ((f"{name}.{inner}", default) for inner, default in msgspec.structs.asdict(value).items())
        else:
            yield name, value


@pytest.mark.parametrize(("name", "default"), list(settings()))
def test_every_setting_is_documented_with_its_default(name: str, default: object):
    assert f"| `{name}` | {shown(default)} |" in page("configuration.md")


def test_the_tables_of_settings_are_those_that_the_settings_make():
    """`python docs/settings_tables.py` writes them."""
    assert renewed(page("configuration.md")) == page("configuration.md")
    assert set(re.findall(r"<!-- settings: (\S+) -->", page("configuration.md"))) == TABLES.keys()


@pytest.mark.parametrize("table", PLUGIN_TABLES)
def test_every_kind_of_plugins_table_is_named(table: str):
    assert f"`[{table}.NAME]`" in page("configuration.md")


def test_every_setting_of_a_role_is_documented_with_its_defaults():
    text = page("configuration.md")
    roles = msgspec.structs.asdict(Roles())
    for field in msgspec.structs.asdict(Roles().judge):
        (row,) = re.findall(rf"^\| `roles\.ROLE\.{field}` \| ([^|]*) \|", text, re.MULTILINE)
        defaults = {role: shown(getattr(value, field)) for role, value in roles.items()}
        if len(set(defaults.values())) == 1:
            assert row == next(iter(defaults.values()))
        else:
            assert row == ", ".join(f"{role} {default}" for role, default in defaults.items())
    assert all(f"`[roles.{role}]`" in text for role in roles)


@pytest.mark.parametrize(
    ("runtime", "options"),
    [("embedded", EmbeddedSettings()), ("ollama", OllamaSettings()), ("openai", OpenAISettings())],
)
def test_every_setting_of_a_shipped_runtime_is_documented_with_its_default(runtime: str, options: msgspec.Struct):
    text = page("configuration.md")
    section = re.split(r"^##+ ", text.partition(f"### `[runtimes.{runtime}]`")[2], maxsplit=1, flags=re.MULTILINE)[0]
    if runtime == "openai":
        section += text.partition("### `[runtimes.ollama]`")[2]
    for name, default in msgspec.structs.asdict(options).items():
        assert f"| `{name}` | {shown(default)} |" in section


def test_the_example_settings_file_is_valid(tmp_path: Path):
    (tmp_path / "tmde.toml").write_text(blocks(page("configuration.md"), "toml")[0], encoding="utf-8")
    assert load_settings(tmp_path, environ={}).roles.judge.model == "qwen3:8b"


def test_every_environment_variable_is_documented():
    sources = [REPOSITORY / "run"]
    for folder in ("tmde_core", "plugins", "ui"):
        sources += (REPOSITORY / folder).rglob("*.py")
    used = {
        name
        for file in sources
        for name in re.findall(
            r"\b(?:(?:TMDE|FINETUNE)_[A-Z][A-Z_]*[A-Z]|BENCHMARK_SCHEDULE)\b", file.read_text("utf-8")
        )
    }
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page("configuration.md"), re.MULTILINE))
    assert used | {"XDG_DATA_HOME"} == documented.keys()
    assert {name: documented[name] for name in ENVIRONMENT} == {
        name: f"`{'.'.join(path)}`" for name, path in ENVIRONMENT.items()
    }


# ------------------------------------------------------------------------------------------ commands


def commands() -> list[str]:
    """Every command and subcommand, as typed."""
    found = []
    for name, entry in COMMANDS.items():
        command = importlib.import_module(entry.module).command
        found += leaves(f"tmde {name}", get_command(command) if isinstance(command, typer.Typer) else None)
    return found


def leaves(words: str, command: Any) -> list[str]:
    """The command, or those below it, or both."""
    below = getattr(command, "commands", None)
    if not below:
        return [words]
    found = [words] if command.invoke_without_command else []
    return found + [leaf for name, sub in below.items() for leaf in leaves(f"{words} {name}", sub)]


def test_the_commands_are_those_that_are_documented():
    assert commands() == re.findall(r"^\| `(tmde [a-z ]+)` \|", page("commands.md"), re.MULTILINE)


@pytest.mark.parametrize("word", ["serve", "test", "shake", "check", "bench", "format", "screenshots"])
def test_every_word_of_run_is_in_the_guide_for_contributors(word: str):
    assert f"./run {word}" in (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_to_files_lead_somewhere(file: Path):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    assert [target for target in targets if not (file.parent / target).exists()] == []


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_every_picture_is_there_in_light_and_dark_small_and_described(file: Path):
    text = file.read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)-light\.png"\s+alt="[^"]+">', text)
    assert len(shown) == text.count("<img") == text.count("<picture>")
    assert re.findall(r'srcset="([^"]+)-dark\.png"', text) == shown
    for name in shown:
        for scheme in ("light", "dark"):
            assert (file.parent / f"{name}-{scheme}.png").stat().st_size <= screenshots.MOST_BYTES


def test_every_picture_is_shown_somewhere():
    text = "".join(file.read_text(encoding="utf-8") for file in DOCS)
    pictures = list((REPOSITORY / "docs" / "images").iterdir())
    assert len(pictures) >= 6
    assert [file.name for file in pictures if f"images/{file.name}" not in text] == []


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_to_headings_lead_somewhere(file: Path):
    def anchors(text: str) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}

    text = file.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]*\.md|)#([^)]+)\)", text)
    lost = [
        (target, anchor)
        for target, anchor in links
        if anchor not in anchors((file.parent / target).read_text(encoding="utf-8") if target else text)
    ]
    assert lost == []


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_prose_lines_have_at_most_100_columns(file: Path):
    prose = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    too_long = [
        line
        for line in prose.splitlines()
        if len(line) > PROSE_COLUMNS and not line.startswith(("|", "#", "    ")) and not UNBREAKABLE.match(line)
    ]
    assert too_long == []


def test_the_glossary_lists_each_term_once_in_alphabetical_order():
    terms = [term.casefold() for term in re.findall(r"^\*\*(.+?)\.\*\* ", page("glossary.md"), re.MULTILINE)]
    assert len(terms) > 50
    assert terms == sorted(set(terms))


def test_every_distribution_has_the_version_of_the_core():
    projects = [
        REPOSITORY / "pyproject.toml",
        REPOSITORY / "ui" / "pyproject.toml",
        *(REPOSITORY / "plugins").glob("*/pyproject.toml"),
    ]
    versions = {file: tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"] for file in projects}
    assert set(versions.values()) == {tmde_core.__version__}, versions


def parts_of_the_core() -> set[str]:
    """The packages and modules right below `tmde_core`, as the page writes them."""
    core = REPOSITORY / "tmde_core"
    packages = {f"{file.parent.name}/" for file in core.glob("*/__init__.py")}
    return packages | {file.name for file in core.glob("*.py") if file.name != "__init__.py"}


def test_the_page_on_architecture_names_every_part_of_the_core_and_no_other():
    table = page("architecture.md").split("| Part of `tmde_core/`", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"`([a-z_]+(?:/|\.py))`", table)) == parts_of_the_core()


def test_the_page_on_architecture_shows_the_layers_that_the_contract_holds():
    contracts = configparser.ConfigParser(interpolation=None)
    contracts.read(REPOSITORY / ".importlinter", encoding="utf-8")
    held = contracts["importlinter:contract:layers"]["layers"].strip()
    (shown,) = blocks(page("architecture.md"), "text")
    assert shown.strip() == held
