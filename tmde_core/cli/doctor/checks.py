"""Run the checks of `tmde doctor`. The checks are independent: a failing check does not hide the others."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from tmde_core import __version__
from tmde_core.backends.service import BackendEnvironments
from tmde_core.cli.doctor.wrong_settings import find_wrong_settings
from tmde_core.cli.kit.invocation import Invocation
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import format_bytes, plain
from tmde_core.entry_points import describe_distribution
from tmde_core.errors import (
    AdapterInvalidError,
    InsufficientStorageError,
    NotFoundError,
    PluginUnavailableError,
    TmdeError,
)
from tmde_core.finetune.supervision.presence import NO_WORKER, find_worker
from tmde_core.models.hashes import ModelHashes
from tmde_core.models.service import MODELS_DIR, ModelService
from tmde_core.plugins import Plugins, create
from tmde_core.plugins.defaults import resolve_roles
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.runtimes import RuntimeReport, Runtimes
from tmde_core.services import open_reading
from tmde_core.settings import SETTINGS_FILE, Settings, default_data_dir
from tmde_core.storage.database import Database
from tmde_core.storage.locks import is_locked

LEAST_PYTHON = (3, 11)
LEAST_SQLITE = (3, 38)
"""STRICT tables need SQLite 3.37. JSON functions are always built in from 3.38 on."""
LEAST_DISK_BYTES = 2 * 10**9
"""Space for a model, its safetensors files, and a few adapters."""
LEAST_FREE_MEMORY_BYTES = 1 * 10**9
"""Memory for the server and the embedded model. Training needs some 3 GB more."""


class Check(Record):
    """The result of one check. `lacking` affects only some uses or none; `broken` stops TMDE."""

    name: str
    status: Literal["ok", "lacking", "broken"]
    detail: str


async def examine(invocation: Invocation) -> list[Check]:
    """Run all checks."""
    checks = [_python(), _sqlite(), _machine(), _memory()]
    settings = None
    plugins = Plugins.load()
    try:
        settings = invocation.settings()
        log_to_file(settings)
        checks += _settings(settings, plugins)
    except TmdeError as error:
        checks.append(Check("settings", "broken", error.detail))
    checks.append(_disk(settings.data_path if settings else invocation.data_dir or default_data_dir()))
    if settings is not None:
        checks += [_writable(settings), await _database(settings), _server(settings), await _adapter(settings)]
    checks += list(_plugins(plugins))
    if settings is not None:
        checks += await _runtimes(plugins, settings)
        checks.append(await _base_model(plugins, settings))
        checks += _worker(settings)
        checks += list(_backends(plugins, settings))
    checks.append(_ui())
    return [Check(check.name, check.status, plain(check.detail)) for check in checks]


def _settings(settings: Settings, plugins: Plugins) -> list[Check]:
    file = settings.data_path / SETTINGS_FILE
    wrong = list(find_wrong_settings(settings, plugins))
    if not wrong:
        return [Check("settings", "ok", f"{file}{'' if file.exists() else ' (not there: everything as shipped)'}")]
    count = "1 setting cannot be used" if len(wrong) == 1 else f"{len(wrong)} settings cannot be used"
    return [
        Check("settings", "lacking", f"{file}: {count}; everything else works."),
        *(Check(f"setting {name}", "lacking", problem) for name, problem in wrong),
    ]


def _python() -> Check:
    version = platform.python_version()
    where = f"{version} ({sys.executable}), TMDE {__version__}"
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "broken", f"{where}: TMDE needs 3.11 or later.")
    return Check("python", "ok", where)


def _sqlite() -> Check:
    with sqlite3.connect(":memory:") as connection:
        try:
            connection.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
            has_fts = True
        except sqlite3.Error:
            has_fts = False
    connection.close()
    if not has_fts:
        return Check(
            "sqlite", "broken", f"{sqlite3.sqlite_version} lacks FTS5. Use a Python whose sqlite3 module has it."
        )
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        return Check("sqlite", "broken", f"{sqlite3.sqlite_version} is too old: 3.38 or later is needed.")
    return Check("sqlite", "ok", f"{sqlite3.sqlite_version} with FTS5")


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "processor",
        "ok",
        f"{cores} cores for this process, {platform.machine()}, {platform.system()} {platform.release()}",
    )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    if memory.available < LEAST_FREE_MEMORY_BYTES:
        return Check("memory", "lacking", f"{detail}: the embedded model may be slow or fail. End other programs.")
    return Check("memory", "ok", detail)


def _disk(directory: Path) -> Check:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    usage = shutil.disk_usage(directory)
    detail = f"{format_bytes(usage.free)} free where the data are ({directory})"
    if usage.free < LEAST_DISK_BYTES:
        return Check("disk", "lacking", f"{detail}: training needs {format_bytes(LEAST_DISK_BYTES)}. Free some space.")
    return Check("disk", "ok", detail)


def _writable(settings: Settings) -> Check:
    probe = settings.data_path / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        return Check("data directory", "broken", f"{settings.data_dir} cannot be written: {error.strerror}.")
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return Check("data directory", "ok", settings.data_dir)


async def _database(settings: Settings) -> Check:
    path = settings.data_path / "tmde.db"
    try:
        async with Database.open(path) as database:
            fault = await database.value("PRAGMA quick_check(1)")
            traces = await database.value("SELECT count(*) FROM traces")
    except (TmdeError, sqlite3.Error) as error:
        return Check("database", "broken", str(error))
    if fault != "ok":
        return Check("database", "broken", f"{path} is damaged: {fault}. Export what can be read, and restore a copy.")
    return Check(
        "database", "ok", f"{path}: {traces:,} trace{'s' * (traces != 1)}, {format_bytes(path.stat().st_size)}"
    )


def _server(settings: Settings) -> Check:
    """Check whether a server has locked the data directory. Both results are fine."""
    path = settings.data_path / "server.lock"
    with suppress(OSError, InsufficientStorageError):
        if is_locked(path):
            process = path.read_text(encoding="utf-8")[:20].strip() or "unknown"
            return Check("server", "ok", f"process {process} serves this data directory")
    return Check("server", "ok", "none runs on this data directory; `tmde serve` starts one")


async def _adapter(settings: Settings) -> Check:
    """Check the files of the active adapter. If they are damaged, the base model answers."""
    try:
        async with open_reading(settings) as services:
            pointer = services.stores.adapters.active()
            adapter = await services.lora.get_active()
    except AdapterInvalidError as error:
        return Check("adapter", "lacking", f"The base model answers. {error.detail}")
    except NotFoundError:
        return Check("adapter", "lacking", f"The active adapter is gone, so the base model answers. {_REPAIR}")
    except (TmdeError, sqlite3.Error):
        return Check("adapter", "lacking", "not examined, because the database cannot be opened")
    if adapter is None or pointer is None:
        return Check("adapter", "ok", "none is active; the base model answers")
    if not adapter.is_valid:
        damage = f"{adapter.id} is active, but damaged: the base model answers. {adapter.invalid_reason} {_REPAIR}"
        return Check("adapter", "lacking", damage)
    return Check("adapter", "ok", f"{adapter.id} is active")


_REPAIR = "`tmde lora rollback` returns to what answered before; `tmde lora activate` chooses another adapter."


def _plugins(plugins: Plugins) -> Iterator[Check]:
    infos = plugins.infos()
    if not infos:
        yield Check("plugins", "broken", "No plugin is installed, so there is no model to ask. Install tmde-cpu.")
    for info in infos:
        where = f"{info.distribution or info.module} {info.version or ''}".strip()
        if info.problems:
            problems = " ".join(problem.detail for problem in info.problems)
            yield Check(f"plugin {info.name}", "lacking", f"{where}: {problems}")
        else:
            yield Check(f"plugin {info.name}", "ok", where)


async def _runtimes(plugins: Plugins, settings: Settings) -> list[Check]:
    """Check every runtime. A runtime that a role of the debate uses is essential."""
    roles = resolve_roles(settings, plugins).roles
    used = {role.runtime for role in (roles.proposer, roles.skeptic, roles.synthesizer)}
    runtimes, hashes = Runtimes(plugins, settings), ModelHashes(settings.data_path / MODELS_DIR)
    checks = [
        Check(
            f"runtime {name}",
            "broken",
            f"The settings name it, but no plugin provides it; there are {', '.join(plugins.runtimes.names()) or 'none'}.",
        )
        for name in sorted(used)
        if name not in plugins.runtimes
    ]
    for report in await runtimes.reports():
        name = f"runtime {report.name}"
        if report.availability.ok:
            checks.append(Check(name, "ok", await _default_model(runtimes, report.name, hashes) or report.summary))
            checks += _adapters_of(report, plays=report.name == roles.proposer.runtime)
        else:
            checks.append(Check(name, "broken" if report.name in used else "lacking", report.availability.reason))
    await runtimes.stop()
    return checks


def _adapters_of(report: RuntimeReport, *, plays: bool) -> list[Check]:
    """Check what a runtime can do with adapters. `plays`: it plays the Proposer, whose adapter TMDE trains."""
    able = report.capabilities
    if not able.adapters_note and (able.adapters or not plays):
        return []
    status: Literal["ok", "lacking"] = "lacking" if plays and not able.adapters else "ok"
    return [Check(f"adapters on {report.name}", status, able.adapters_note or "It cannot serve adapters.")]


async def _default_model(runtimes: Runtimes, name: str, hashes: ModelHashes) -> str:
    """Return the default model with its size, and with its SHA-256 if the model is a file."""
    try:
        models = await runtimes.made(name).models()
    except Exception:  # the check of this runtime says what is wrong with it
        return ""
    for model in models:
        if model.default:
            is_file = model.path is not None and Path(model.path).is_file()
            sha256 = await asyncio.to_thread(hashes.compute, model.path or "") if is_file else None
            return f"{model.name}, {format_bytes(model.size_bytes)}{f', sha256 {sha256}' if sha256 else ''}"
    return ""


async def _base_model(plugins: Plugins, settings: Settings) -> Check:
    """Check whether the Proposer's model is known, and whether it can be trained."""
    runtimes = Runtimes(plugins, settings)
    try:
        models = ModelService(lambda: runtimes, lambda: resolve_roles(settings, plugins))
        base = await models.find_role_base()
        best = (await models.suggest()).best_for_answering if base and base.embedded else None
        reports = await runtimes.reports()
    finally:
        await runtimes.stop()
    role = resolve_roles(settings, plugins).roles.proposer
    if base is not None and any(one.name == role.runtime and not one.availability.ok for one in reports):
        return Check(
            "model", "lacking", f"{base.name} is the Proposer's model, but {role.runtime} cannot serve it now."
        )
    if base is None:
        wanted = (
            f"the model {role.model!r} of {role.runtime!r}" if role.model else f"the default model of {role.runtime!r}"
        )
        return Check("model", "lacking", f"The Proposer needs {wanted}, which is not there now.")
    if base.why_not_trainable:
        return Check("model", "lacking", f"{base.name} answers. {base.why_not_trainable}")
    if base.embedded and best is not None:
        todo = best.command or "choose it for the roles"
        return Check("model", "ok", f"{base.name} answers, which is a toy; {best.name} fits this machine: {todo}")
    return Check("model", "ok", f"{base.name} answers and can be trained")


def _worker(settings: Settings) -> list[Check]:
    """Check whether the worker that the settings ask for runs."""
    wanted = settings.supervisor.place == "worker"
    found = find_worker(settings.data_path)
    if found is None:
        return [Check("worker", "lacking", f"{NO_WORKER} Until then, training runs wait.")] if wanted else []
    if not wanted:
        unused = "Nothing is queued for it, because `supervisor.place` is `server`: set it to `worker`."
        return [Check("worker", "lacking", f"{found.describe()} {unused}")]
    return [Check("worker", "lacking" if found.is_late() else "ok", found.describe())]


def _backends(plugins: Plugins, settings: Settings) -> Iterator[Check]:
    """Check every training backend. Without a backend, everything except training works."""
    worker = find_worker(settings.data_path) if settings.supervisor.place == "worker" else None
    environments = BackendEnvironments(plugins, lambda: settings)
    for descriptor in plugins.backends:
        name = f"training {descriptor.name}"
        if worker is not None and (there := worker.find(descriptor.name)) is not None:
            where = "The worker can train with it." if there.ok else f"The worker cannot train with it: {there.reason}"
            yield Check(name, "ok" if there.ok else "lacking", where)
            continue
        try:
            availability = environments.explain(descriptor.name, create(descriptor, settings).availability())
        except PluginUnavailableError as error:
            yield Check(name, "lacking", error.detail)
            continue
        except Exception as error:  # a plugin's own defect must not hide the other checks
            yield Check(name, "lacking", describe_error(error))
            continue
        yield Check(name, "ok" if availability.ok else "lacking", availability.reason or descriptor.summary)


def _ui() -> Check:
    for entry_point in importlib.metadata.entry_points(group="tmde.ui", name="default"):
        package = describe_distribution(entry_point.dist)
        return Check("pages", "ok", f"{package.name or entry_point.value} {package.version}")
    return Check("pages", "lacking", "tmde-ui is not installed: `tmde serve` offers the API only.")
