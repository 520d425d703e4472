"""Writes the tables of `configuration.md` from what the settings say of themselves: `python docs/settings_tables.py`.

A table stands between `<!-- settings: NAME -->` and `<!-- end -->`. `tests/test_docs.py` fails when one is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tmde_axolotl.options import AxolotlSettings
from tmde_core.records.fields import Field, fields_of
from tmde_core.settings import ENVIRONMENT, Roles, RoleSettings, Settings
from tmde_cpu.environment import CpuSettings
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_runtime_http.options import HttpSettings, OllamaSettings, OpenAISettings
from tmde_unsloth.options import UnslothSettings

PAGE = Path(__file__).with_name("configuration.md")
HEAD = "| Setting | Default | Range | Meaning |\n|---|---|---|---|\n"
TABLE = re.compile(r"(?<=<!-- settings: )(?P<name>\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def row(field: Field, prefix: str = "", default: str = "") -> str:
    """One line of a table."""
    cells = (f"`{prefix}{field.name}`", default or shown(field.default), span(field), field.help)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) + "\n"


def rows(record: type[msgspec.Struct], prefix: str = "") -> str:
    """Return a line for each field of a struct."""
    return HEAD + "".join(row(field, prefix) for field in fields_of(record))


def shown(value: object) -> str:
    """Return a default as the file would have it."""
    return "unset" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def span(field: Field) -> str:
    """Return the values that a field may have; empty if it may have any."""
    if field.kind == "bool":
        return "`true`, `false`"
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    if field.minimum is None or field.maximum is None:
        return ""
    least = f"{'above ' if field.exclusive else ''}{figure(field.minimum)}"
    return " ".join(part for part in (f"{least} – {figure(field.maximum)}", field.unit) if part)


def figure(number: float) -> str:
    """Return a bound as a person types it: 1000000 and 0.00001, not 1e+06 and 1e-05."""
    return f"{number:.10f}".rstrip("0").rstrip(".")


def server() -> str:
    """Return the settings that are in no table of the file."""
    return HEAD + "".join(row(field) for field in fields_of(Settings) if field.kind not in ("record", "table"))


def parts(*names: str) -> str:
    """Return the tables `[NAME]` of the file, one below the other."""
    return HEAD + "".join(
        row(field, f"{name}.") for name in names for field in fields_of(type(getattr(Settings(), name)))
    )


def roles() -> str:
    """Return the settings of a role, with the defaults of each role."""
    return HEAD + "".join(row(field, "roles.ROLE.", _of_each_role(field.name)) for field in fields_of(RoleSettings))


def _of_each_role(name: str) -> str:
    defaults = {role: shown(getattr(value, name)) for role, value in msgspec.structs.asdict(Roles()).items()}
    if len(set(defaults.values())) == 1:
        return defaults["judge"]
    return ", ".join(f"{role} {default}" for role, default in defaults.items())


def openai() -> str:
    """Return the settings that the table of Ollama does not have."""
    shared = {field.name: field for field in fields_of(HttpSettings)}
    return HEAD + "".join(row(field) for field in fields_of(OpenAISettings) if shared.get(field.name) != field)


def environment(variables: Iterable[tuple[str, tuple[str, ...]]] = ENVIRONMENT.items()) -> str:
    """Which variable sets which setting."""
    return "| Variable | Sets |\n|---|---|\n" + "".join(
        f"| `{variable}` | `{'.'.join(path)}` |\n" for variable, path in variables
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "server": server,
    "debate": lambda: parts("debate"),
    "roles": roles,
    "runtimes.embedded": lambda: rows(EmbeddedSettings),
    "runtimes.ollama": lambda: rows(OllamaSettings),
    "runtimes.openai": openai,
    "training": lambda: parts("finetune"),
    "backends.cpu": lambda: rows(CpuSettings),
    "backends.unsloth": lambda: rows(UnslothSettings),
    "backends.axolotl": lambda: rows(AxolotlSettings),
    "by-itself": lambda: parts("schedule", "notify", "supervisor"),
    "benchmark": lambda: parts("benchmark"),
    "environment": environment,
}


def renewed(page: str) -> str:
    """Return the page with every table as the settings have it now."""
    return TABLE.sub(lambda found: f"{found['name']}{found[2]}{TABLES[found['name']]()}", page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
