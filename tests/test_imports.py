"""What importing TMDE does not load, seen in a fresh interpreter; and where heavy libraries may be imported at all."""

from __future__ import annotations

import ast
import configparser
import graphlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tmde_core.sdk.hooks import ENTRY_POINT_GROUP

REPOSITORY = Path(__file__).parents[1]

HEAVY = frozenset(
    {
        "torch",
        "transformers",
        "peft",
        "trl",
        "datasets",
        "unsloth",
        "axolotl",
        "bitsandbytes",
        "xllamacpp",
        "gguf",
        "scipy",
    }
)

LOADED = "import json, sys; print(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

PLUGINS = [
    entry.value for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if entry.value.startswith("tmde_")
]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a new interpreter after `statement`."""
    command = [sys.executable, "-c", f"{statement}\n{LOADED}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["tmde_core", "tmde_core.services", "tmde_core.api.app", "tmde_ui.compose", *PLUGINS]
)
def test_importing_it_loads_no_machine_learning(module: str):
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_loading_every_plugin_loads_no_machine_learning_and_no_numpy():
    assert loaded_by("from tmde_core.plugins import Plugins; Plugins.load()") & (HEAVY | {"numpy"}) == set()


def test_the_help_of_the_command_line_loads_no_server_no_pages_and_no_numpy():
    statement = (
        "import sys; sys.argv = ['tmde', '--help']\n"
        "from tmde_core.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code"
    )
    assert loaded_by(statement) & (HEAVY | {"numpy", "litestar", "nicegui", "stevedore", "httpx"}) == set()


def test_the_core_and_the_api_load_no_pages():
    assert "nicegui" not in loaded_by("import tmde_core.services, tmde_core.api.app")


def sources() -> list[Path]:
    return [file for folder in ("tmde_core", "plugins", "ui") for file in (REPOSITORY / folder).rglob("*.py")]


def outer_imports(file: Path) -> set[str]:
    """Top-level packages that a module imports as it is loaded: not those inside functions or for type checkers."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def test_heavy_libraries_are_imported_at_module_level_by_modules_that_no_plugin_module_reaches():
    """A worker may import torch at its top; then nothing that is loaded at start-up may import that worker."""
    heavy = {file for file in sources() if outer_imports(file) & HEAVY}
    assert all(file.is_relative_to(REPOSITORY / "plugins") for file in heavy), heavy
    for plugin in PLUGINS:
        spec = importlib.util.find_spec(plugin)
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin) not in heavy


def test_every_shipped_plugin_is_installed():
    folders = {file.parent.name for file in (REPOSITORY / "plugins").glob("*/pyproject.toml")}
    assert {value.partition(".")[0] for value in PLUGINS} == folders


# ----------------------------------------------------------------------------------------- layers, public package

CONTRACTS = REPOSITORY / ".importlinter"
SHIPPED = {value.partition(".")[0] for value in PLUGINS}


def contracts() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(CONTRACTS, encoding="utf-8")
    return found


def names(section: str, option: str) -> set[str]:
    return set(contracts()[section][option].split())


def test_the_contracts_look_at_the_core_the_pages_and_every_shipped_plugin():
    assert names("importlinter", "root_packages") == {"tmde_core", "tmde_ui", *SHIPPED}


@pytest.mark.parametrize(
    ("contract", "option"),
    [
        ("core-knows-no-plugin", "forbidden_modules"),
        ("plugins-are-strangers", "modules"),
        ("plugins-import-the-public-package", "source_modules"),
        ("litestar", "source_modules"),
        ("nicegui", "source_modules"),
        ("pluggy-and-stevedore", "source_modules"),
    ],
)
def test_no_contract_forgets_a_shipped_plugin(contract: str, option: str):
    assert names(f"importlinter:contract:{contract}", option) >= SHIPPED


def test_every_import_that_a_contract_passes_over_is_explained():
    """A comment stands right above `ignore_imports`, or above the first import in it."""
    lines = CONTRACTS.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("ignore_imports")]
    assert starts
    bare = [lines[at + 1] for at in starts if not any(lines[near].strip().startswith("#") for near in (at - 1, at + 1))]
    assert bare == []


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "tmde_core",
        *sorted(SHIPPED),
        include_external_packages=False,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph):
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


def test_in_no_package_do_the_rooms_import_each_other_in_a_circle(graph: grimp.ImportGraph):
    for package in sorted(graph.modules):
        depth = package.count(".") + 2
        rooms: dict[str, set[str]] = {}
        for module in graph.find_descendants(package):
            room = ".".join(module.split(".")[:depth])
            inside = graph.find_modules_directly_imported_by(module) & graph.find_descendants(package)
            rooms.setdefault(room, set()).update({".".join(one.split(".")[:depth]) for one in inside} - {room})
        # The settings that are changed ask the services that follow them: see the layers contract.
        rooms.get("tmde_core.settings", set()).difference_update(
            {f"tmde_core.{name}" for name in ("finetune", "notifications", "plugins", "schedule")}
        )
        graphlib.TopologicalSorter(rooms).prepare()


def imported(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it the statement stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "tmde_core" else set()
            )
            found |= submodules or {node.module}
    return found


def is_for_tests(file: Path) -> bool:
    return file.name == "testing.py" or file.name.startswith("test_") or "tests" in file.parts


@pytest.mark.parametrize("folder", ["plugins", "examples"])
def test_plugins_and_examples_import_only_the_public_package_of_the_core(folder: str):
    """Their tests may import the contract kit, `tmde_core.testing`, too."""
    files = list((REPOSITORY / folder).rglob("*.py"))
    assert files
    for file in files:
        allowed = ("tmde_core.sdk", "tmde_core.testing") if is_for_tests(file) else ("tmde_core.sdk",)
        taken = {name for name in imported(file) if name.partition(".")[0] == "tmde_core"}
        private = {name for name in taken if not any(name == one or name.startswith(f"{one}.") for one in allowed)}
        assert private == set(), f"{file.relative_to(REPOSITORY)} imports {', '.join(sorted(private))}"
