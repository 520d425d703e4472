"""Runs the benchmarks and keeps what they found in `bench/RESULTS.md`, one section each.

    ./run bench [NAME …]

A benchmark is a module in this folder with `main() -> str`: it measures, holds what it found against what was promised
(and raises when it falls short), and returns Markdown. Each runs in a process of its own, one after the other. A section is
replaced when its benchmark has run; the others stay, with the machine and the day that they were measured on.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import psutil

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
TITLE = "# What was measured\n\nWritten by `./run bench`. Figures are ratios within one run wherever they compare.\n"

ONE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("benchmark", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["benchmark"] = module
sys.path.insert(0, sys.argv[2])
spec.loader.exec_module(module)
text = module.main()
with open(sys.argv[3], "w", encoding="utf-8") as file:
    file.write(text)
"""


def names() -> list[str]:
    """The benchmarks there are."""
    files = (file for file in FOLDER.glob("*.py") if not file.name.startswith("_"))
    return sorted(
        file.stem for file in files if file != Path(__file__) and "def main() -> str" in file.read_text("utf-8")
    )


def machine() -> str:
    """The machine, the system and the versions that figures depend on, in one paragraph."""
    packages = ("xllamacpp", "torch", "transformers", "litestar", "nicegui")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}: {_processor()}, {_cores()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB RAM, {_system()}, Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform(terse=True)


def measure(name: str) -> str | None:
    """Run one benchmark in a process of its own; its Markdown, or None when it failed."""
    answer = FOLDER / f".{name}.answer"
    try:
        done = subprocess.run([sys.executable, "-c", ONE, FOLDER / f"{name}.py", FOLDER, answer], check=False)
        return answer.read_text(encoding="utf-8").strip() if done.returncode == 0 else None
    finally:
        answer.unlink(missing_ok=True)


def with_section(document: str, name: str, text: str) -> str:
    """The document with the section called `name` replaced, or added in the order of names."""
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL))
    sections[name] = text
    body = "".join(f"## {title}\n\n{sections[title].strip()}\n\n" for title in sorted(sections))
    return f"{TITLE}\n{body}".rstrip() + "\n"


def main(wanted: list[str]) -> int:
    """Run what is wanted, or everything; the exit code says whether all of it held."""
    known = names()
    if unknown := sorted(set(wanted) - set(known)):
        print(
            f"There is no benchmark called {', '.join(unknown)}; there are {', '.join(known) or 'none'}.",
            file=sys.stderr,
        )
        return 2
    failed = []
    for name in wanted or known:
        print(f"== {name}", flush=True)
        text = measure(name)
        if text is None:
            failed.append(name)
            continue
        print(text, flush=True)
        document = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(document, name, f"{text}\n\n*{machine()}*"), encoding="utf-8")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
