"""Settings that are changed while TMDE runs: checked whole, written, and what of them waits for a restart."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tmde_core.errors import ConflictError, InvalidInputError
from tmde_core.finetune.service import FineTuneService
from tmde_core.notifications.service import checked_webhook
from tmde_core.plugins import Plugins
from tmde_core.records.base import invalid_field, to_json
from tmde_core.schedule.service import ScheduleService, crons
from tmde_core.settings import ENVIRONMENT, SETTINGS_FILE, Settings
from tmde_core.settings.file import update_settings_file

MASK = "********"
"""Shown for a secret; sent back, it leaves the secret as it is."""

_SECRET = re.compile(r"(?i)(key|token|secret|password)$")

IGNORED = frozenset({"restartRequired"})
"""Stands in what `GET` answers, so that the whole answer may be sent back, changed."""


class StoredSettings:
    """The settings as the file has them now, beside those that this process runs with."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        finetune: FineTuneService,
        schedules: ScheduleService,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._running = settings
        self._stored = settings
        self._plugins = plugins
        self._finetune = finetune
        self._schedules = schedules
        self._environ = environ
        self._lock = asyncio.Lock()

    @property
    def stored(self) -> Settings:
        """The settings from the next start on."""
        return self._followed(self._stored)

    @property
    def restart_required(self) -> bool:
        """Whether anything was changed that holds only from the next start on; training and schedules follow at once."""
        return self._followed(self._stored) != self._followed(self._running)

    def _followed(self, settings: Settings) -> Settings:
        """The settings with what follows changes at once as it is now."""
        return msgspec.structs.replace(settings, finetune=self._finetune.config(), schedule=self._schedules.settings)

    def masked(self) -> dict[str, Any]:
        """The stored settings by field, with the secrets of runtimes masked."""
        values = msgspec.structs.asdict(self.stored)
        values["runtimes"] = {name: _masked(table) for name, table in self._stored.runtimes.items()}
        return values

    async def change(self, values: Mapping[str, Any]) -> Settings:
        """Put new values over the stored ones; all of them, or none.

        Args:
            values: in the wire's form; what is not named stays.

        Raises:
            InvalidInputError: an unknown setting, or a value of the wrong type or out of range.
            ConflictError: the environment sets one of them, so the file would not count.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        async with self._lock:
            before = msgspec.json.decode(to_json(self.stored))  # as the wire has it: lists, not tuples
            changes = _changes(before, {name: value for name, value in values.items() if name not in IGNORED})
            new = self._checked(_over(before, changes))
            if changes:
                self._require_free(changes)
                finetune = changes.pop("finetune", None)
                if changes:
                    file = self._running.data_path / SETTINGS_FILE
                    await asyncio.to_thread(update_settings_file, file, _to_file(changes))
                    self._stored = new
                if finetune:
                    await self._finetune.set_config(new.finetune)
                self._schedules.apply(new.schedule)
            return self.stored

    def _checked(self, tree: dict[str, Any]) -> Settings:
        try:
            new = msgspec.convert(tree, Settings)
        except msgspec.ValidationError as error:
            raise invalid_field(error, Settings) from None
        if new.data_dir != self._running.data_dir:
            raise InvalidInputError(
                "dataDir: the data directory is chosen at the start, with --data-dir or TMDE_DATA_DIR.", field="dataDir"
            )
        if new.debate.min_rounds > new.debate.max_rounds:
            raise InvalidInputError(
                f"debate.minRounds: {new.debate.min_rounds} is more than debate.maxRounds, {new.debate.max_rounds}.",
                field="debate.minRounds",
            )
        crons(new.schedule)
        checked_webhook(new.notify.webhook_url)
        if not new.host.strip():
            raise InvalidInputError("host: must name an address to listen on.", field="host")
        for role in ("proposer", "skeptic", "synthesizer", "judge"):
            self._plugins.runtimes.choose(getattr(new.roles, role).runtime, f"roles.{role}.runtime")
        if new.finetune != self._finetune.config():
            self._plugins.backends.choose(new.finetune.backend, "finetune.backend")
        return new

    def _require_free(self, changes: Mapping[str, Any]) -> None:
        for variable, path in ENVIRONMENT.items():
            if self._environ.get(variable) and _holds(_to_file(changes), path):
                raise ConflictError(
                    f"The environment variable {variable} sets this, and it wins over the file. Change it there.",
                    variable=variable,
                )


def _changes(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of `values` differs from `before`; masked secrets do not."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := _changes(old, value):
                found[name] = inner
        elif name not in before or (value != old and not (value == MASK and _SECRET.search(name))):
            found[name] = value
    return found


def _over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _to_file(changes: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The wire's names as the file spells them; below `runtimes` names belong to plugins and stay."""
    if path[:1] == ("runtimes",):
        for name, value in changes.items():
            if value is None:
                raise InvalidInputError(f"{'.'.join((*path, name))}: null cannot be stored.", field=name)
    return {
        name if path[:1] == ("runtimes",) else _snake(name): _to_file(value, (*path, name))
        if isinstance(value, Mapping)
        else value
        for name, value in changes.items()
    }


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def _holds(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = tree
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _masked(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _masked(value) if isinstance(value, Mapping) else MASK if value and _SECRET.search(name) else value
        for name, value in table.items()
    }
