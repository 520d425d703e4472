"""Writes the lock files from what is installed, so that a lock is always a set of versions that was tried together.

    ./run setup && .venv/bin/pip install --upgrade NAME && ./run test && .venv/bin/python requirements/lock.py

`base.txt` is everything that the server, the command line and answering need, with the means to build it;
`training.txt` what training on the CPU needs on top, `dev.txt` what tests and checks need, and `bench.txt` what
benchmarks compare with. They are complete (installed with `--no-deps`) and hold on every supported Python version and
platform, because markers are evaluated for all of them. torch stands apart in `torch.txt`: which build of it is right
depends on the machine.

The same versions make the lock file of the environment that `tmde backends install cpu` builds for training.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
LOCAL = {
    "tmde": ".",
    "tmde-cpu": "plugins/tmde_cpu",
    "tmde-bench-default": "plugins/tmde_bench_default",
    "tmde-runtime-http": "plugins/tmde_runtime_http",
    "tmde-unsloth": "plugins/tmde_unsloth",
    "tmde-axolotl": "plugins/tmde_axolotl",
    "tmde-ui": "ui",
}
"""Local package → its folder. What it needs is read from its pyproject.toml, not from what was installed once."""
BUILD = ("hatchling", "editables")
"""What the local packages are built with, editable and without isolation."""
APART = {"torch"}
TRAINING = ("tmde-cpu[training]",)
WORKERS = ("gguf", "safetensors", "numpy", "msgspec", "pluggy", "psutil", "structlog")
"""What the workers of training need beside the extra `training`: their own imports, and those of the worker kit."""
TORCH_WITHOUT_CARD = (
    "torch=={version}+cpu ; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "torch=={version} ; sys_platform != 'linux' or platform_machine != 'x86_64'",
)
"""Only for this platform, the usual index has a build that carries CUDA."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {"linux": "Linux", "darwin": "Darwin"}


def environments() -> Iterator[dict[str, str]]:
    """Return the marker environments that a lock must hold on."""
    for python in PYTHONS:
        for platform, system in PLATFORMS.items():
            yield {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": platform,
                "platform_system": system,
                "platform_machine": "x86_64",
                "platform_python_implementation": "CPython",
                "implementation_name": "cpython",
                "os_name": "posix",
            }


def closure(roots: Iterable[str]) -> set[str]:
    """Return the names of `roots` and of all that they need, on any supported environment, canonical.

    Raises:
        SystemExit: one of them is not installed.
    """
    waiting = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in _requirements(*key):
            requirement = Requirement(line)
            if any(_applies(requirement, extra) for extra in ("", *key[1])):
                waiting.append(requirement)
    return {name for name, _ in seen}


def _requirements(name: str, extras: frozenset[str]) -> list[str]:
    if name in LOCAL:
        text = (REPOSITORY / LOCAL[name] / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
        optional = project.get("optional-dependencies", {})
        return [*project.get("dependencies", ()), *(line for extra in sorted(extras) for line in optional[extra])]
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name} is needed but not installed; install it, then lock again.")


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for environment in environments())


def locks() -> dict[Path, str]:
    """Lock file → its content; without those whose packages are not installed here."""
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    base = closure((*LOCAL, *BUILD)) - set(LOCAL)
    training = closure(TRAINING) - base - set(LOCAL) - APART
    dev = closure(groups["dev"]) - base - training - APART
    folder = REPOSITORY / "requirements"
    written = {
        folder / "base.txt": _text("Everything that the server and answering need.", _pins(base)),
        folder / "training.txt": _text("What training needs beside base.txt, torch apart.", _pins(training)),
        folder / "dev.txt": _text("What tests and checks need beside base.txt and training.txt.", _pins(dev)),
        REPOSITORY / "plugins" / "tmde_cpu" / "tmde_cpu" / "locks" / "cpu.txt": _text(
            "What training on the CPU needs in an environment of its own.", _environment()
        ),
    }
    # Half a gigabyte that only `./run bench` installs: where it is missing, its lock stays as it is.
    if all(_installed(Requirement(line).name) for line in groups["bench"]):
        bench = closure(groups["bench"]) - base - training - dev - APART
        written[folder / "bench.txt"] = _text("What benchmarks compare with.", _pins(bench))
    return written


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _environment() -> list[str]:
    """Return the requirements of the environment for training alone."""
    extra = set(_requirements("tmde-cpu", frozenset({"training"}))) - set(_requirements("tmde-cpu", frozenset()))
    (pin,) = (REPOSITORY / "requirements" / "torch.txt").read_text(encoding="utf-8").split()
    torch = [line.format(version=pin.removeprefix("torch==")) for line in TORCH_WITHOUT_CARD]
    return [*_pins(closure((*extra, *WORKERS)) - APART), *torch]


def _pins(names: set[str]) -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in sorted(names)]


def _text(title: str, pins: list[str]) -> str:
    return "\n".join((f"# {title} Written by requirements/lock.py.", *pins)) + "\n"


def main() -> None:
    """Write the locks, or with `--check` say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a lock differs from what is installed"
    )
    check = parser.parse_args().check
    for file, text in locks().items():
        if check and file.read_text(encoding="utf-8") != text:
            sys.exit(f"{file.name} differs from what is installed; run requirements/lock.py.")
        if not check:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
