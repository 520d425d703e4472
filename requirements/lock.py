"""Writes the lock files from what is installed, so that a lock is always a set of versions that was tried together.

    ./run setup && .venv/bin/pip install --upgrade NAME && ./run test && .venv/bin/python requirements/lock.py

`base.txt` is everything that TMDE needs, with the means to build it; `dev.txt` what tests and checks need on top, and
`bench.txt` what benchmarks compare with. They are complete (installed with `--no-deps`) and hold on every supported Python version and platform, because markers are
evaluated for all of them. torch stands apart in `torch.txt`: which build of it is right depends on the machine.
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
LOCAL = ("tmde", "tmde-cpu", "tmde-bench-default", "tmde-runtime-http", "tmde-ui")
BUILD = ("hatchling", "editables")
"""What the local packages are built with, editable and without isolation."""
APART = {"torch"}
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
        try:
            requirements = importlib.metadata.requires(key[0]) or []
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"{wanted} is needed but not installed; install it, then lock again.")
        for line in requirements:
            requirement = Requirement(line)
            if any(_applies(requirement, extra) for extra in ("", *key[1])):
                waiting.append(requirement)
    return {name for name, _ in seen}


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for environment in environments())


def locks() -> dict[Path, str]:
    """Lock file → its content; without those whose packages are not installed here."""
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    base = closure((*LOCAL, *BUILD)) - {*LOCAL, *APART}
    dev = closure(groups["dev"]) - base
    written = {
        REPOSITORY / "requirements" / "base.txt": _text("Everything that TMDE needs, torch apart.", base),
        REPOSITORY / "requirements" / "dev.txt": _text("What tests and checks need beside base.txt.", dev),
    }
    # Half a gigabyte that only `./run bench` installs: where it is missing, its lock stays as it is.
    if all(_installed(Requirement(line).name) for line in groups["bench"]):
        bench = closure(groups["bench"]) - base - dev - APART
        written[REPOSITORY / "requirements" / "bench.txt"] = _text("What benchmarks compare with.", bench)
    return written


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _text(title: str, names: set[str]) -> str:
    pins = (f"{name}=={importlib.metadata.version(name)}" for name in sorted(names))
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
