"""`docs/sdk.md` is what the source of the public package says, and the source says it of every name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import tmde_core.sdk
from tools import sdk_page

REFRESH = "docs/sdk.md is stale. Refresh it with: .venv/bin/python -m tools.sdk_page"

PRIVATE = {
    f"worker.{part}"
    for part in (
        "base_identity",
        "conversation",
        "examples",
        "kit",
        "loaded_model",
        "measuring",
        "preview",
        "publishing",
        "run_files",
        "schedule",
        "start",
        "state",
        "tokenizer",
        "vitals",
        "weights",
    )
}
"""Parts of `tmde_core.sdk.worker`, which names what is public of them."""


def all_modules() -> list[str]:
    folder = Path(tmde_core.sdk.__file__).parent
    files = [file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py")]
    return sorted(".".join(part for part in file.parts if part != "__init__") for file in files)


def test_the_page_of_the_public_package_is_fresh():
    assert sdk_page.PAGE.read_text(encoding="utf-8") == sdk_page.write(), REFRESH


def test_the_page_has_every_module_of_the_public_package():
    assert sorted({*sdk_page.MODULES} | PRIVATE) == all_modules()


@pytest.mark.parametrize("module", all_modules())
def test_every_module_says_what_is_public(module: str):
    found = importlib.import_module(f"tmde_core.sdk.{module}".rstrip("."))
    assert found.__all__
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_every_public_name_and_field_is_described():
    assert sdk_page.undocumented() == []


def test_no_line_of_the_page_is_too_long():
    assert max(map(len, sdk_page.write().splitlines())) <= sdk_page.WIDTH
