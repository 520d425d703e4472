"""Find out what loading a plugin imports: `python -m tmde_core.testing.fresh MODULE[:ATTRIBUTE] DATA_DIR`.

The module runs in a fresh interpreter and prints one line of JSON, a `Loaded`.
"""

from __future__ import annotations

import operator
import sys
from importlib import import_module
from pathlib import Path

import msgspec

from tmde_core.plugins import Plugins
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.sdk.context import MakingDescriptor, PluginContext
from tmde_core.sdk.hooks import HOOKS

HEAVY = frozenset(
    {
        "accelerate",
        "axolotl",
        "bitsandbytes",
        "datasets",
        "gguf",
        "jax",
        "llama_cpp",
        "mlx",
        "numpy",
        "onnxruntime",
        "pandas",
        "peft",
        "scipy",
        "sentence_transformers",
        "sklearn",
        "tensorflow",
        "torch",
        "transformers",
        "trl",
        "unsloth",
        "vllm",
        "xllamacpp",
    }
)
"""Packages that take a noticeable part of a second or longer to import."""


class Loaded(Record):
    """The result of loading a plugin in a fresh interpreter."""

    error: str = ""
    """Why the module could not be imported. The other fields are empty then."""
    imported: tuple[str, ...] = ()
    """Heavy packages that are loaded after the module is imported and its hooks are called."""
    made: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Maps a thing that `create` makes, such as "judge length", to the heavy packages that this loaded."""
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    """Maps a thing that cannot be made with the default settings to the reason."""


def find(target: str) -> object:
    """Return the object that an entry point's value names."""
    module, _, attribute = target.partition(":")
    found: object = import_module(module)
    return operator.attrgetter(attribute)(found) if attribute else found


def look(target: str, data_dir: Path) -> Loaded:
    """Import a plugin, call its hooks, and make what it describes."""
    before = _heavy()
    try:
        plugin = find(target)
    except BaseException as error:  # a plugin may even call sys.exit()
        return Loaded(error=describe_error(error))
    plugins = Plugins()
    plugins.add("plugin", plugin)
    imported = _heavy()
    made: dict[str, tuple[str, ...]] = {}
    failed: dict[str, str] = {}
    for hook in HOOKS.values():
        for descriptor in plugins.shelf(hook.descriptor):
            if not isinstance(descriptor, MakingDescriptor):
                continue
            known, what = _heavy(), f"{hook.noun} {descriptor.name}"
            try:
                create = descriptor.create  # type: ignore[attr-defined]
                create(PluginContext(data_dir, descriptor.settings()))
            except BaseException as error:
                failed[what] = describe_error(error)
            made[what] = tuple(sorted(_heavy() - known))
    return Loaded(imported=tuple(sorted(imported - before)), made=made, failed=failed)


def _heavy() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules} & HEAVY


if __name__ == "__main__":
    found = look(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(found) + b"\n")
