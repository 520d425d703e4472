"""Lists, installs, examines and removes the Python environments of training backends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from tmde_core.backends.building import (
    InstallProgress,
    build_environment,
    continues_build,
    find_python,
    locked_packages,
)
from tmde_core.backends.driver import choose_build, find_driver
from tmde_core.backends.probing import probe
from tmde_core.backends.progress import (
    Installation,
    InstallationFile,
    ask_to_cancel,
    read_installation,
    remove_records,
)
from tmde_core.errors import (
    ConflictError,
    InsufficientStorageError,
    InvalidInputError,
    NotFoundError,
    PluginUnavailableError,
    TmdeError,
)
from tmde_core.plugins import Plugins
from tmde_core.plugins.defaults import BackendChoice, choose_backend
from tmde_core.plugins.making import context_for, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.records.runtimes import Availability
from tmde_core.sdk.environments import Environment, EnvironmentStamp, ProbeReport, TorchBuild
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock, is_locked

__all__ = ["BackendDetails", "BackendEnvironment", "BackendEnvironments", "InstallPlan"]

EnvironmentState = Literal["built-in", "absent", "incomplete", "installed", "foreign"]
"""`built-in`: the workers run in TMDE's own environment. `foreign`: the settings name an interpreter."""


class BackendEnvironment(Record, frozen=True):
    """A training backend, and the Python environment of its workers."""

    name: str
    summary: str
    state: EnvironmentState
    interpreter: str
    """The interpreter of its workers."""
    availability: Availability
    chosen: bool
    """Whether `auto` selects this backend now."""
    build: str = ""
    """The name of the installed packages, such as `cu128`."""
    report: ProbeReport | None = None
    """What the probe found last."""
    installation: Installation | None = None
    """The installation that runs, in this process or another, or else the last one."""


class InstallPlan(Record, frozen=True):
    """What an installation will do."""

    name: str
    build: str
    why: str
    """Why this build, one sentence."""
    python: str
    """The version of Python."""
    directory: str
    packages: int
    download_bytes: int
    disk_bytes: int
    free_bytes: int
    continues: bool
    """Whether an unfinished installation goes on."""
    current: bool
    """Whether exactly this is installed, so that it is only examined."""


class BackendDetails(Record, frozen=True):
    """A training backend, and what an installation of its environment would do."""

    backend: BackendEnvironment
    builds: tuple[str, ...] = ()
    """The names of the packages that can be installed, the best first."""
    plan: InstallPlan | None = None
    """None: nothing can be installed."""
    refusal: str = ""
    """Why nothing can be installed, and what to do. Empty for a backend without an environment of its own."""


class BackendEnvironments:
    """Manages the environments of one data directory."""

    def __init__(self, plugins: Plugins, settings: Callable[[], Settings]) -> None:
        """Create the service.

        Args:
            plugins: the plugins.
            settings: returns the settings in force.
        """
        self._plugins = plugins
        self._settings = settings
        self._installing: dict[str, InstallationFile] = {}
        """The installations of this process, running or ended."""
        self._refusals: dict[str, str] = {}
        """Why this process could not begin to install what TMDE installs by itself."""

    def list(self) -> list[BackendEnvironment]:
        """Return every training backend. Nothing is run; the reports are those of the last probes."""
        chosen = self.choice()
        return [self._describe(descriptor, chosen) for descriptor in self._plugins.backends]

    def choice(self) -> BackendChoice | None:
        """Return the backend that `auto` selects now, and why; None if there is no backend."""
        return choose_backend(self._plugins, self._settings())

    def find(self, name: str) -> BackendEnvironment:
        """Return one training backend. Nothing is run.

        Raises:
            NotFoundError: there is no such backend.
        """
        found = {one.name: one for one in self.list()}
        if name not in found:
            raise NotFoundError(
                f"There is no training backend called {name[:60]!r}; available: {', '.join(found) or 'none'}."
            )
        return found[name]

    def details(self, name: str, build: str = "auto") -> BackendDetails:
        """Return one training backend with the plan of an installation. The driver is asked.

        Raises:
            NotFoundError: there is no such backend.
            InvalidInputError: there is no such build.
        """
        found = self.find(name)
        spec = self._plugins.backends.get(name).environment_spec
        if spec is None:
            return BackendDetails(found)
        builds = tuple(one.name for one in spec.builds)
        if build not in ("auto", *builds):
            raise InvalidInputError(f"There is no build {build[:60]!r}; there are {', '.join(builds)}.", field="build")
        try:
            return BackendDetails(found, builds, plan=self.plan(name, build))
        except TmdeError as error:
            return BackendDetails(found, builds, refusal=error.detail)

    def is_built_in(self, name: str) -> bool:
        """Return whether the workers of a backend run in TMDE's own environment, which has their packages.

        Raises:
            PluginUnavailableError: there is no such backend.
            InvalidInputError: the backend has no environment of its own.
        """
        return self._environment(name).is_built_in

    def awaits_installation(self, name: str) -> bool:
        """Return whether a run with this backend waits until TMDE has installed the backend's packages.

        Raises:
            PluginUnavailableError: there is no such backend.
        """
        environment = self._of(self._plugins.backends.get(name))
        return environment is not None and environment.awaits_installation

    def describe_wait(self, name: str) -> str:
        """Return what a run with this backend waits for, in one sentence; empty if its packages are installed.

        Raises:
            PluginUnavailableError: there is no such backend.
        """
        if not self.awaits_installation(name):
            return ""
        found = self.installation(name)
        if found is None or found.state != "installing":
            return "Waiting for the packages of training."
        return f"Waiting for the packages of training: {found.place}."

    def explain(self, name: str, availability: Availability) -> Availability:
        """Return a backend's availability; while its packages are being installed, the reason says how far they are."""
        with contextlib.suppress(TmdeError):  # a wrong setting, which the reason tells already
            if availability.ok and self.awaits_installation(name):
                now = self.installation(name)
                if now is not None and now.state == "installing":
                    reason = f"Its packages are being installed: {now.place}. A run waits for them."
                    return Availability(ok=True, reason=reason)
        return availability

    def describe_missing(self) -> str:
        """Return how the installation goes of what the server installs by itself, in sentences.

        Empty: nothing is missing, or a `tmde worker` trains and nothing is being installed.
        """
        for name in self._list_lacking():
            found = self.installation(name)
            if found is not None and found.state == "installing":
                return f"The packages of training ({name}) are being installed: {found.place}. You can work meanwhile."
            if self._trains_elsewhere or not self.awaits_installation(name):
                continue
            why = self._refusals.get(name, "") or (found.error if found is not None else "")
            return (
                f"The packages of training ({name}) are not installed yet. The next run installs them first, and so does "
                f"the next start of the server.{f' The last attempt failed. {why}' if why else ''}"
            )
        return ""

    def list_automatic(self) -> Sequence[str]:
        """Return the backends whose packages the server installs by itself, and which are missing or outdated.

        A server whose runs are trained by a `tmde worker` installs nothing: the worker does, before it needs them.
        """
        return [] if self._trains_elsewhere else self._list_lacking()

    def keep_refusal(self, name: str, why: str) -> None:
        """Remember why an installation that nobody asked for could not begin, until the next one begins."""
        self._refusals[name] = why

    @property
    def _trains_elsewhere(self) -> bool:
        return self._settings().supervisor.place == "worker"

    def _list_lacking(self) -> Sequence[str]:
        found = []
        for descriptor in self._plugins.backends:
            with contextlib.suppress(TmdeError):  # a wrong setting
                environment = self._of(descriptor)
                if environment is None or environment.install != "automatic":
                    continue
                if environment.awaits_installation or environment.is_outdated:
                    found.append(descriptor.name)
        return found

    async def require_working(self, name: str) -> None:
        """Raise an error if a backend's environment does not work. It is examined if that was not done yet.

        Raises:
            PluginUnavailableError: see above; the detail says what to do.
        """
        environment = self._of(self._plugins.backends.get(name))
        if environment is None or environment.is_built_in:
            return
        if environment.report() is None:
            await self._examine(environment)
        found = await asyncio.to_thread(environment.availability)
        if not found.ok:
            raise PluginUnavailableError(found.reason, name=name)

    def plan(self, name: str, build: str = "auto") -> InstallPlan:
        """Return what `install` would do.

        Raises:
            PluginUnavailableError: there is no such backend, or no suitable Python.
            InvalidInputError: the backend has no environment of its own, a setting names an interpreter, or no build fits.
        """
        environment = self._environment(name)
        if environment.is_foreign:
            raise InvalidInputError(
                f"The setting backends.{name}.python names the interpreter {environment.interpreter}. Remove the setting "
                "to let TMDE install an environment.",
                field=f"backends.{name}.python",
            )
        if environment.is_built_in:
            raise InvalidInputError(
                f"TMDE's own environment has the packages of {name}, so there is nothing to install.", field="name"
            )
        chosen, why = choose_build(environment.spec, find_driver(), build)
        _, version = self._python(environment)
        place = next(path for path in environment.directory.parents if path.is_dir())
        return InstallPlan(
            name=name,
            build=chosen.name,
            why=why,
            python=version,
            directory=str(environment.directory),
            packages=len(locked_packages(Path(chosen.lock))),
            download_bytes=chosen.download_bytes,
            disk_bytes=chosen.disk_bytes,
            free_bytes=shutil.disk_usage(place).free,
            continues=continues_build(environment.directory, chosen, version),
            current=_is_current(environment, chosen),
        )

    async def install(
        self,
        name: str,
        build: str = "auto",
        tell: Callable[[InstallProgress], object] = lambda _: None,
        niceness: int = 0,
    ) -> ProbeReport:
        """Install the environment of a backend, examine it, and return what the probe found.

        An environment that is complete and up to date is only examined.

        Args:
            name: the backend.
            build: the packages; `auto`: those that fit the driver.
            tell: is called with the progress.
            niceness: how much lower than this process's the priority of pip is, 0–19.

        Raises:
            PluginUnavailableError: there is no such backend, no suitable Python, or a step failed.
            InvalidInputError: see `plan`.
            InsufficientStorageError: the disk is too small.
            ConflictError: it is being installed or removed now, or a training run may use what would be replaced.
            InstallationCancelledError: another process has asked to cancel the installation.
        """
        environment = self._environment(name)
        if environment.is_built_in:
            return await self._examine(environment)
        plan = await asyncio.to_thread(self.plan, name, build)
        chosen = next(one for one in environment.spec.builds if one.name == plan.build)
        with self._locked(environment) as lock:
            async with self._recorded(environment, chosen.name, tell) as told:
                if not await asyncio.to_thread(_is_current, environment, chosen):
                    if environment.stamp() is not None:
                        await self._require_no_run()  # it could train with what is replaced now
                    if not plan.continues and plan.free_bytes < plan.disk_bytes:
                        raise InsufficientStorageError(
                            f"The environment needs {plan.disk_bytes / 1e9:.1f} GB in {environment.directory.parent}; "
                            f"{plan.free_bytes / 1e9:.1f} GB are free. Free some space and start again.",
                            need=plan.disk_bytes,
                            have=plan.free_bytes,
                        )
                    python = await asyncio.to_thread(self._python, environment)
                    log = _log_file(environment)
                    with storage_errors(environment.directory):
                        await build_environment(environment.directory, chosen, python, log, lock, niceness, told)
                told(InstallProgress(step="Examining the environment"))
                return await self._examine(environment)

    def installation(self, name: str) -> Installation | None:
        """Return the installation that runs, in this process or another, or else the last one; None without one.

        Raises:
            PluginUnavailableError: there is no such backend.
        """
        environment = self._of(self._plugins.backends.get(name))
        return self._installation(environment) if environment is not None else None

    def ask_to_cancel(self, installation: Installation) -> None:
        """Ask the process that runs an installation to end it. Return at once.

        Raises:
            PluginUnavailableError: there is no such backend.
            InvalidInputError: the backend has no environment of its own.
            InsufficientStorageError: the request cannot be written.
        """
        ask_to_cancel(_installation_file(self._environment(installation.name)), installation)

    def is_busy(self, name: str) -> bool:
        """Return whether a process installs or removes the environment of a backend now.

        Raises:
            PluginUnavailableError: there is no such backend.
        """
        environment = self._of(self._plugins.backends.get(name))
        return environment is not None and is_locked(_lock_file(environment))

    async def doctor(self, name: str) -> ProbeReport:
        """Examine the environment of a backend with the backend's own probe, and keep the report.

        Raises:
            PluginUnavailableError: there is no such backend, or its environment is not installed.
            InvalidInputError: the backend has no environment of its own.
        """
        environment = self._environment(name)
        if environment.is_foreign:
            found = environment.availability()
            if not environment.has_interpreter:
                raise PluginUnavailableError(found.reason, name=name)
        elif not environment.is_built_in and environment.stamp() is None:
            now = self._installation(environment)
            if now is not None and now.state == "installing":
                raise PluginUnavailableError(
                    f"The environment of {name} is being installed: {now.place}. It is examined at the end.", name=name
                )
            raise PluginUnavailableError(
                f"The environment of {name} is not installed. Run `tmde backends install {name}`.", name=name
            )
        return await self._examine(environment)

    async def remove(self, name: str) -> int:
        """Delete the environment of a backend and return the freed bytes.

        Raises:
            PluginUnavailableError: there is no such backend.
            InvalidInputError: the backend has no environment of its own.
            ConflictError: a training run is in progress, or it is being installed or removed now.
        """
        environment = self._environment(name)
        with self._locked(environment):
            await self._require_no_run()
            with storage_errors(environment.directory):
                environment.forget_report()
                self._installing.pop(name, None)
                remove_records(_installation_file(environment))
                return await asyncio.to_thread(_delete, environment.directory)

    # ------------------------------------------------------------------------------------------- parts

    def _environment(self, name: str) -> Environment:
        descriptor = self._plugins.backends.get(name)
        environment = self._of(descriptor)
        if environment is None:
            raise InvalidInputError(
                f"The backend {name} has no environment of its own: its packages are installed with TMDE.", field="name"
            )
        return environment

    def _of(self, descriptor: BackendDescriptor) -> Environment | None:
        if descriptor.environment_spec is None:
            return None
        return Environment.of(context_for(descriptor, self._settings()), descriptor.name, descriptor.environment_spec)

    def _describe(self, descriptor: BackendDescriptor, chosen: BackendChoice | None) -> BackendEnvironment:
        is_chosen = chosen is not None and chosen.name == descriptor.name
        try:
            environment = self._of(descriptor)
            backend: TrainingBackend = create(descriptor, self._settings())
            availability = backend.availability()
        except Exception as error:  # a defect in one plugin must not hide the other backends
            environment, availability = None, Availability(ok=False, reason=describe_error(error))
        if environment is None:
            return BackendEnvironment(
                descriptor.name, descriptor.summary, "built-in", descriptor.environment, availability, is_chosen
            )
        stamp = environment.stamp()
        state: EnvironmentState = "foreign" if environment.is_foreign else "installed" if stamp else "absent"
        if environment.is_built_in:
            state = "built-in"
        elif state == "absent" and environment.directory.exists():
            state = "incomplete"
        return BackendEnvironment(
            name=descriptor.name,
            summary=descriptor.summary,
            state=state,
            interpreter=str(environment.interpreter),
            availability=self.explain(descriptor.name, availability),
            chosen=is_chosen,
            build=stamp.build if stamp and state == "installed" else "",
            report=environment.report(),
            installation=None if environment.is_foreign else self._installation(environment),
        )

    def _installation(self, environment: Environment) -> Installation | None:
        own = self._installing.get(environment.name)
        if own is not None and (own.now.state == "installing" or own.unwritten):
            return own.now if own.now.step else None
        return read_installation(_installation_file(environment), _lock_file(environment))

    def _python(self, environment: Environment) -> tuple[str, str]:
        versions = environment.spec.python
        found = find_python(versions)
        if found is None:
            raise PluginUnavailableError(
                f"The environment needs Python {', '.join(versions[:-1])} or {versions[-1]} with its venv module, and none "
                f"was found. Install one, or name an interpreter that has the packages: backends.{environment.name}.python."
            )
        return found

    async def _require_no_run(self) -> None:
        if await asyncio.to_thread(_is_training, self._settings().data_path / "runs"):
            raise ConflictError("A training run is in progress. Wait for its end, or cancel it.")

    @contextlib.contextmanager
    def _locked(self, environment: Environment) -> Iterator[FileLock]:
        _require_ordinary(environment, is_changed=True)
        with storage_errors(environment.directory.parent):
            environment.directory.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock.try_acquire(_lock_file(environment))
        if lock is None:
            raise ConflictError(self._describe_holder(environment))
        with lock:
            yield lock

    def _describe_holder(self, environment: Environment) -> str:
        """Return which other process works on an environment, and what to do."""
        now = self._installation(environment)
        if now is None or now.state != "installing":
            return f"The environment of {environment.name} is being installed or removed now. Try again in a minute."
        return (
            f"Another process ({now.process}) installs the environment of {environment.name} now: {now.place}. Wait for "
            f"its end, or cancel it: `tmde backends cancel {environment.name}`."
        )

    @contextlib.asynccontextmanager
    async def _recorded(
        self, environment: Environment, build: str, tell: Callable[[InstallProgress], object]
    ) -> AsyncIterator[Callable[[InstallProgress], object]]:
        """Record an installation for other processes, which can cancel it. Yield the function that takes its progress."""
        _installation_file(environment).unlink(missing_ok=True)  # it tells of an earlier installation
        record = InstallationFile(_installation_file(environment), environment.name, build)
        self._installing[environment.name] = record
        self._refusals.pop(environment.name, None)

        def tell_all(progress: InstallProgress) -> None:
            record.tell(progress)
            tell(progress)

        try:
            async with record.cancellable():
                with record.recording_the_end():
                    yield tell_all
        finally:
            if not record.now.step:  # it was refused before its first step
                del self._installing[environment.name]

    async def _examine(self, environment: Environment) -> ProbeReport:
        _require_ordinary(environment, is_changed=False)
        report = await probe(environment)
        with storage_errors(environment.probed_file):
            await asyncio.to_thread(environment.keep_report, report)
        return report


def _lock_file(environment: Environment) -> Path:
    return environment.directory.with_name(f".{environment.name}.lock")


def _log_file(environment: Environment) -> Path:
    return environment.directory.with_name(f"{environment.name}.install.log")


def _installation_file(environment: Environment) -> Path:
    return environment.directory.with_name(f"{environment.name}.progress.json")


def _require_ordinary(environment: Environment, *, is_changed: bool) -> None:
    """Raise an error if something else lies where TMDE keeps the files of an environment.

    TMDE writes and deletes nothing through a link: the link may lead out of the data directory.

    Args:
        environment: the environment.
        is_changed: whether the environment's directory is written or deleted. One that a link names can be used.
    """
    directory, envs = environment.directory, environment.directory.parent
    files = [environment.probed_file]
    if is_changed:
        files += [_lock_file(environment), _installation_file(environment), _log_file(environment)]
    wrong = [file for file in files if os.path.lexists(file) and (file.is_symlink() or not file.is_file())]
    if os.path.lexists(envs) and not envs.is_dir():
        wrong = [envs]
    elif is_changed and os.path.lexists(directory) and (directory.is_symlink() or not directory.is_dir()):
        wrong.insert(0, directory)
    if wrong:
        what = "a link" if wrong[0].is_symlink() else "a directory" if wrong[0].is_dir() else "no directory of TMDE's"
        if wrong[0] in files and what.startswith("no"):
            what = "no ordinary file"
        raise ConflictError(
            f"{wrong[0]} is {what}, so TMDE leaves it as it is. Move it away, then try again.", name=environment.name
        )


def _is_current(environment: Environment, build: TorchBuild) -> bool:
    from tmde_core.storage.durable import hash_file

    stamp = environment.stamp()
    if stamp is None or not environment.interpreter.exists():
        return False
    wanted = EnvironmentStamp(build=build.name, lock_sha256=hash_file(Path(build.lock)), python=stamp.python)
    return stamp == wanted


def _is_training(runs: Path) -> bool:
    return any(is_locked(leash) for leash in runs.glob("*/leash"))


def _delete(directory: Path) -> int:
    """Delete a directory. It is renamed first, because a partly deleted environment must not look complete."""
    doomed = directory.with_name(f".{directory.name}.removed")
    if doomed.is_symlink() or doomed.is_file():
        doomed.unlink()
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        directory.rename(doomed)
    except FileNotFoundError:
        return 0
    size = sum(file.lstat().st_size for file in doomed.rglob("*") if file.is_file() and not file.is_symlink())
    shutil.rmtree(doomed)
    return size
