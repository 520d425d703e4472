"""Python environments of training backends: what a plugin says about its own, and where workers run.

A backend whose libraries do not fit into TMDE's own environment ships lock files and a probe. `tmde backends install
NAME` builds `envs/NAME` in the data directory from a lock file, and the probe says what works there.

    ENVIRONMENT = EnvironmentSpec(package="my_plugin", probe="my_plugin.probe", builds=(TorchBuild(...),))
    environment = Environment.of(context, "mine", ENVIRONMENT)
    WorkerCommand(argv=environment.argv("my_plugin.worker", job_path), env={**environment.variables})
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.base import Record, from_json, to_json
from tmde_core.records.runtimes import Availability
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.storage.durable import hash_file, read_small, write_atomic

__all__ = [
    "ENVIRONMENTS_DIR",
    "STAMP_FILE",
    "TRAINING_VARIABLES",
    "VARIABLES",
    "Environment",
    "EnvironmentSettings",
    "EnvironmentSpec",
    "EnvironmentStamp",
    "InstallMode",
    "Lack",
    "ProbeReport",
    "TorchBuild",
    "torch_builds",
    "version_tuple",
    "worker_argv",
]

ENVIRONMENTS_DIR = "envs"
"""The directory of environments in the data directory."""
STAMP_FILE = "tmde-environment.json"
"""A complete environment has this file. It holds an `EnvironmentStamp`."""

VARIABLES: Mapping[str, str] = {"PYTHONPATH": "", "PYTHONHOME": "", "PYTHONNOUSERSITE": "1"}
"""Environment variables of a worker that keep packages of other Python environments out. Add them to
`WorkerCommand.env`."""

TRAINING_VARIABLES: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Spinning threads slow down each other and everything else when another process is busy.
    "OMP_WAIT_POLICY": "passive",
    "PYTHONUNBUFFERED": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""Environment variables that a worker with transformers and PyTorch should have: nothing is fetched, nobody is told,
threads do not spin, and the memory of a card is used to the end. Add them to `WorkerCommand.env`."""

InstallMode = Annotated[
    Literal["automatic", "on-demand", "manual"],
    msgspec.Meta(
        title="Installation",
        description=(
            "When TMDE installs the backend's packages: `automatic` in the background after the server's start, `on-demand` "
            "before the first run, `manual` only by `tmde backends install`."
        ),
    ),
]
"""When TMDE installs an environment."""

GIGABYTE = 1_000_000_000

# Within CUDA 12, a driver runs what was built for a later minor version (NVIDIA's minor version compatibility). PyTorch
# has no build of this age for CUDA 11.
_CUDA_OF_BUILDS: Mapping[str, str] = {"cu130": "13.0", "cu128": "12.0", "cpu": ""}

_START = Path(__file__).parent / "worker" / "start.py"


class TorchBuild(Record, frozen=True, kw_only=True):
    """One set of packages, made for one build of PyTorch."""

    name: str
    """A short name: `cpu`, `cu128` or `cu130`."""
    lock: str
    """The path of the lock file: pinned requirements, each with its exact version, dependencies included."""
    cuda: str = ""
    """The lowest CUDA version that the card's driver must support, such as `12.8`. Empty: no card is needed."""
    index: str = ""
    """The address of a package index that has this build of PyTorch. Empty: the usual one."""
    download_bytes: int
    """Approximate size of all packages."""
    disk_bytes: int
    """Approximate size of the finished environment."""


def torch_builds(locks: Path, **gigabytes: tuple[float, float]) -> tuple[TorchBuild, ...]:
    """Return the usual builds of PyTorch, the best first.

    Args:
        locks: the directory of the lock files. They have the names of the builds: `cu130.txt`, `cu128.txt`, `cpu.txt`.
        gigabytes: the name of a build → the size of all packages, and of the finished environment, in gigabytes.
    """
    return tuple(
        TorchBuild(
            name=name,
            lock=str(locks / f"{name}.txt"),
            cuda=cuda,
            index=f"https://download.pytorch.org/whl/{name}",
            download_bytes=round(gigabytes[name][0] * GIGABYTE),
            disk_bytes=round(gigabytes[name][1] * GIGABYTE),
        )
        for name, cuda in _CUDA_OF_BUILDS.items()
        if name in gigabytes
    )


class EnvironmentSpec(Record, frozen=True, kw_only=True):
    """What a plugin says about the Python environment of its workers."""

    package: str
    """The plugin's package. Workers in the environment can import it and `tmde_core.sdk`."""
    probe: str
    """A module of the package. Run in the environment, it prints a `ProbeReport` as one JSON line."""
    python: tuple[str, ...] = ("3.12", "3.11", "3.13", "3.10")
    """The Python versions that the lock files are for, the best first."""
    builds: tuple[TorchBuild, ...]
    """The sets of packages, the best first. The first one that the driver supports is installed."""
    own: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Package → lowest version. If TMDE's own environment has all of them, the workers run there, and nothing is
    installed. Empty: the workers always need an environment of their own."""

    def is_satisfied(self) -> bool:
        """Return whether TMDE's own environment has the packages of `own`. None of them is imported."""
        return bool(self.own) and all(_has(name, lowest) for name, lowest in self.own.items())


class Lack(Record, frozen=True):
    """Something that the probe did not find."""

    what: str
    """A sentence that names the lack."""
    remedy: str = ""
    """What to do about it."""
    fatal: bool = True
    """Whether the backend cannot train at all."""


class ProbeReport(Record, frozen=True):
    """What a backend's probe found in its environment."""

    python: str
    """The version of Python."""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    """Package → version."""
    device: str = ""
    """`cuda`, `cpu`, or empty if nothing can be computed."""
    device_name: str = ""
    """The name of the card."""
    compute_capability: str = ""
    """The card's compute capability, such as `8.6`."""
    memory_bytes: int | None = None
    """Memory of the card."""
    four_bit: bool = False
    """Whether base models can be held in 4 bits."""
    lacks: tuple[Lack, ...] = ()
    """What is missing, and what to do about it."""

    @property
    def ok(self) -> bool:
        """Whether the backend can train in this environment."""
        return not any(lack.fatal for lack in self.lacks)


class EnvironmentSettings(PluginSettings, frozen=True, kw_only=True):
    """Base of the settings of a backend that has an environment of its own."""

    python: Annotated[
        str,
        msgspec.Meta(
            title="Python interpreter",
            description=(
                "An interpreter that has the backend's packages. Empty: the environment that `tmde backends install` "
                "builds."
            ),
        ),
    ] = ""
    """An interpreter that a person names instead of the environment in the data directory."""
    install: InstallMode = "manual"
    """When the environment is installed."""


class EnvironmentStamp(Record, frozen=True):
    """Describes a complete environment."""

    build: str
    """The name of the `TorchBuild`."""
    lock_sha256: str
    """SHA-256 of the lock file."""
    python: str
    """The version of Python."""


class _Probed(Record, frozen=True):
    """A report, and what it is about."""

    interpreter: str
    stamp: EnvironmentStamp | None
    report: ProbeReport


class Environment:
    """The Python environment of one backend in one data directory."""

    def __init__(
        self, data_dir: Path, name: str, spec: EnvironmentSpec, python: str = "", install: InstallMode = "manual"
    ) -> None:
        """Describe the environment. Nothing is created.

        Args:
            data_dir: the data directory.
            name: the name of the backend.
            spec: what the plugin says about the environment.
            python: an interpreter that a person names instead; empty: the environment in the data directory.
            install: when TMDE installs the environment.
        """
        self.name = name
        self.spec = spec
        self.directory = data_dir.absolute() / ENVIRONMENTS_DIR / name
        self.install: InstallMode = install
        self.is_foreign = bool(python)
        self.is_built_in = not python and spec.is_satisfied()
        """Whether the workers run in TMDE's own environment, which has their packages."""
        # Not resolved: the link `bin/python` of a virtual environment tells Python where its packages are.
        if self.is_built_in:
            self.interpreter = Path(sys.executable)
        else:
            self.interpreter = _expand(python) if python else self.directory / "bin" / "python"
        self.probed_file = self.directory.with_name(f"{name}.probe.json")
        """Holds the last report of the probe."""

    @classmethod
    def of(cls, context: PluginContext[Any], name: str, spec: EnvironmentSpec) -> Environment:
        """Return the environment of a backend. Settings that are `EnvironmentSettings` may name an interpreter."""
        settings = context.settings
        if not isinstance(settings, EnvironmentSettings):
            return cls(context.data_dir, name, spec)
        return cls(context.data_dir, name, spec, settings.python, settings.install)

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables of workers that keep packages of other Python environments out."""
        return {} if self.is_built_in else VARIABLES

    @property
    def awaits_installation(self) -> bool:
        """Whether the environment is not installed, and a run may wait for TMDE to install it."""
        if self.is_foreign or self.is_built_in or self.install == "manual":
            return False
        return self.stamp() is None

    @property
    def is_outdated(self) -> bool:
        """Whether the installed packages are not those of the lock file, which came with another version of the plugin."""
        stamp = None if self.is_foreign or self.is_built_in else self.stamp()
        if stamp is None:
            return False
        locks = [build.lock for build in self.spec.builds if build.name == stamp.build]
        return not locks or hash_file(Path(locks[0])) != stamp.lock_sha256

    def stamp(self) -> EnvironmentStamp | None:
        """Return the stamp of the environment in the data directory; None if it is absent or incomplete."""
        with contextlib.suppress(OSError, TmdeError):
            return from_json(read_small(self.directory / STAMP_FILE), EnvironmentStamp)
        return None

    def report(self) -> ProbeReport | None:
        """Return the last report of the probe; None if this interpreter was not probed yet."""
        with contextlib.suppress(OSError, TmdeError):
            probed = from_json(read_small(self.probed_file), _Probed)
            if (probed.interpreter, probed.stamp) == (str(self.interpreter), self._own_stamp()):
                return probed.report
        return None

    def keep_report(self, report: ProbeReport) -> None:
        """Store a report of the probe."""
        self.probed_file.parent.mkdir(parents=True, exist_ok=True)
        probed = _Probed(interpreter=str(self.interpreter), stamp=self._own_stamp(), report=report)
        write_atomic(self.probed_file, to_json(probed))

    def forget_report(self) -> None:
        """Delete the stored report."""
        self.probed_file.unlink(missing_ok=True)

    def availability(self) -> Availability:
        """Return whether workers can run here, from the files and the last report alone.

        An environment that TMDE installs before a run counts as available; the reason says that a run waits.
        """
        if self.is_built_in:
            return Availability(ok=True)
        if self.awaits_installation:
            return Availability(
                ok=True,
                reason="Its packages are not installed yet. A run waits for them; "
                f"`tmde backends install {self.name}` installs them now.",
            )
        if self.is_foreign and (why := self._describe_wrong_interpreter()):
            return Availability(
                ok=False,
                reason=f"The interpreter {_shorten(self.interpreter)} of the setting backends.{self.name}.python {why}.",
            )
        if not self.is_foreign and self.stamp() is None:
            state = "is not complete" if self.directory.exists() else "is not installed"
            return Availability(ok=False, reason=f"Its environment {state}. Run `tmde backends install {self.name}`.")
        report = self.report()
        if report is None:
            return Availability(
                ok=False, reason=f"Its environment was not examined yet. Run `tmde backends doctor {self.name}`."
            )
        notes = [f"{lack.what} {lack.remedy}".strip() for lack in report.lacks if lack.fatal]
        is_ok = not notes
        if self.is_outdated:
            notes.append(
                "Its packages are those of another version of the plugin. "
                f"`tmde backends install {self.name}` replaces them."
            )
        return Availability(ok=is_ok, reason=" ".join(notes))

    def argv(self, module: str, *arguments: str) -> tuple[str, ...]:
        """Return the command line of a module of the plugin that runs in this environment."""
        if self.is_built_in:
            return (str(self.interpreter), "-m", module, *arguments)
        return worker_argv(self.spec.package, module, *arguments, interpreter=str(self.interpreter))

    @property
    def has_interpreter(self) -> bool:
        """Whether there is a program where the interpreter should be."""
        return not self._describe_wrong_interpreter()

    def _describe_wrong_interpreter(self) -> str:
        if not self.interpreter.is_absolute():  # it would depend on where a process was started
            return "is no absolute path"
        if "\0" in str(self.interpreter) or not self.interpreter.exists():
            return "does not exist"
        if not self.interpreter.is_file() or not os.access(self.interpreter, os.X_OK):
            return "is no program"
        return ""

    def _own_stamp(self) -> EnvironmentStamp | None:
        return None if self.is_foreign or self.is_built_in else self.stamp()


def worker_argv(package: str, module: str, *arguments: str, interpreter: str = "") -> tuple[str, ...]:
    """Return the command line that runs a module of a plugin's package in an environment without TMDE.

    A worker starts its own child processes in this way, without `interpreter`: they run with its own.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"There is no package {package}.")
    directory = next(iter(found.submodule_search_locations))
    return (interpreter or sys.executable, str(_START), str(Path(directory).absolute()), module, *arguments)


def _expand(path: str) -> Path:
    """Return a path in which `~` stands for a home directory. A home that is unknown stays as it is written."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def _shorten(path: Path) -> str:
    """Return a path that people have written, without control characters."""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(path))
    return text if len(text) <= 200 else f"{text[:199]}…"


def _has(package: str, lowest: str) -> bool:
    """Return whether this interpreter has a package, at least in this version."""
    try:
        return version_tuple(importlib.metadata.version(package)) >= version_tuple(lowest)
    except importlib.metadata.PackageNotFoundError:
        return False


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: `12.8` gives (12, 8)."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
