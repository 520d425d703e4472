"""What importing TMDE does not load, seen in a fresh interpreter; and where heavy libraries may be imported at all."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

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
