"""Runs the benchmarks and stores their results in `bench/RESULTS.md`, one section for each.

    ./run bench [NAME …] [--OPTION …]

A benchmark is a module in this folder with `main() -> str`. It measures, compares the result with its limits (and
raises an error if a limit is missed), and returns Markdown. Each benchmark runs in a separate process, one after the
other. A run replaces the section of its benchmark. The other sections stay, with the machine and the date of their own
measurement. A benchmark that cannot measure on this machine says so and returns nothing; its section stays.

Options are passed on to the benchmarks (`sys.argv`). A run with options is a trial: its figures are only printed.
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
file, folder, answer, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.spec_from_file_location("benchmark", file)
module = importlib.util.module_from_spec(spec)
sys.modules["benchmark"] = module
sys.path.insert(0, folder)
spec.loader.exec_module(module)
text = module.main()
with open(answer, "w", encoding="utf-8") as output:
    output.write(text)
"""


def names() -> list[str]:
    """Return the names of all benchmarks."""
    files = (file for file in FOLDER.glob("*.py") if not file.name.startswith("_"))
    return sorted(
        file.stem for file in files if file != Path(__file__) and "def main() -> str" in file.read_text("utf-8")
    )


def machine() -> str:
    """Return one paragraph with the machine, the system and the versions that the figures depend on."""
    packages = ("xllamacpp", "torch", "transformers", "litestar", "nicegui")
    versions = ", ".join(f"{name} {found}" for name in packages if (found := _version(name)))
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}: {_processor()}, {_cores()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB RAM, {_system()}, Python {platform.python_version()}, {versions}."
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a backend's own environment lacks most of them
        return None


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


def measure(name: str, options: list[str]) -> str | None:
    """Run one benchmark in a separate process; return its Markdown, or None if it failed."""
    answer = FOLDER / f".{name}.answer"
    try:
        done = subprocess.run([sys.executable, "-c", ONE, FOLDER / f"{name}.py", FOLDER, answer, *options], check=False)
        return answer.read_text(encoding="utf-8").strip() if done.returncode == 0 else None
    finally:
        answer.unlink(missing_ok=True)


def with_section(document: str, name: str, text: str) -> str:
    """Return the document with the section `name` replaced, or inserted in the order of names."""
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL))
    sections[name] = text
    body = "".join(f"## {title}\n\n{sections[title].strip()}\n\n" for title in sorted(sections))
    return f"{TITLE}\n{body}".rstrip() + "\n"


def main(wanted: list[str]) -> int:
    """Run the wanted benchmarks, or all; return 0 if all succeeded, 1 if one failed, 2 for an unknown name."""
    known = names()
    options = [word for word in wanted if word.startswith("-")]
    wanted = [word for word in wanted if not word.startswith("-")]
    if unknown := sorted(set(wanted) - set(known)):
        print(
            f"There is no benchmark called {', '.join(unknown)}; there are {', '.join(known) or 'none'}.",
            file=sys.stderr,
        )
        return 2
    failed = []
    for name in wanted or known:
        print(f"== {name}", flush=True)
        text = measure(name, options)
        if text is None:
            failed.append(name)
            continue
        if not text:
            continue  # it has said why
        print(text, flush=True)
        if options:
            continue
        document = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(document, name, f"{text}\n\n*{machine()}*"), encoding="utf-8")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
