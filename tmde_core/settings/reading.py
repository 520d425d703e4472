"""Settings: one frozen struct, read once from file and environment, then passed on explicitly.

`tmde.toml` in the data directory is the file; environment variables win over it, and flags over both. Keys in the
file are snake_case; on the wire (`GET /api/settings`) they are camelCase like everything else.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tmde_core.errors import InsufficientStorageError, InvalidInputError
from tmde_core.records.base import Record
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.wrong_values import in_words

SETTINGS_FILE = "tmde.toml"
MAX_QUERY_BYTES = 32 * 1024

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


class RoleSettings(Record):
    """Which model plays a role, and how."""

    runtime: Name = "embedded"
    model: str = ""
    """The runtime's name of the model; empty: its default."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 384


class Roles(Record):
    """The four roles of a debate."""

    proposer: RoleSettings = RoleSettings(temperature=0.7, max_tokens=384)
    skeptic: RoleSettings = RoleSettings(temperature=0.3, max_tokens=256)
    synthesizer: RoleSettings = RoleSettings(temperature=0.3, max_tokens=384)
    judge: RoleSettings = RoleSettings(temperature=0.0, max_tokens=16)


class DebateSettings(Record):
    """How a debate runs. A single debate may override each of these in its `config`."""

    min_rounds: Annotated[int, Meta(ge=1, le=10)] = 1
    max_rounds: Annotated[int, Meta(ge=1, le=10)] = 3
    accept_score: Annotated[float, Meta(ge=0, le=10)] = 8.0
    """The debate ends early when the Skeptic accepts, or scores at least this and names nothing above minor."""
    templates: Annotated[int, Meta(ge=0, le=5)] = 1
    """How many reasoning templates are retrieved."""
    synthesis: Literal["always", "when-disputed", "never"] = "always"
    """`when-disputed`: an answer that the Skeptic accepted stands as it is. `never`: the last proposal is final."""
    judge: str = "auto"
    """A judge's name; `auto`: the verifier where there is a reference, else the rubric judge; `none`."""


class ScheduleSettings(Record):
    """When things happen by themselves: five-field cron expressions; `off` or empty: never."""

    finetune: str = "0 2 * * 0"
    benchmark: str = ""
    timezone: str = ""
    """IANA name, such as Europe/Berlin; empty: the machine's."""


class NotifySettings(Record):
    """Who else is told."""

    webhook_url: str = ""
    """An http(s) address that gets each notification as JSON by POST; empty: nobody."""


class SupervisorSettings(Record):
    """Who starts training processes."""

    place: Literal["server", "worker"] = "server"
    """`worker`: the server only enqueues; a `tmde worker` elsewhere, on the same data directory, trains."""
    niceness: Annotated[int, Meta(ge=0, le=19)] = 10
    """How far training stands back; beside a busy process, at 10, it gets a tenth of a core, so that it gets on."""


class BenchmarkSettings(Record):
    """How adapters are measured, and what follows from it."""

    judge: str = "auto"
    """A judge's name; `auto`: the verifier where a criterion can be checked, else the rubric judge."""
    panel: tuple[str, ...] = ()
    """Models that the judge `panel` asks beside the Judge role's: RUNTIME or RUNTIME:MODEL."""
    after_training: bool = True
    """Run the quick benchmark on each new adapter."""
    auto_activate: bool = False
    """Activate an adapter that the quick benchmark proves better."""
    auto_rollback: bool = False
    """Roll back an active adapter that a scheduled benchmark proves worse."""
    quality_weight: Annotated[float, Meta(ge=0.5, le=1)] = 0.8
    """Exponent of quality in the TMDE score; efficiency has the rest."""


class Settings(Record):
    """Everything that can be set."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8321
    data_dir: str = ""
    allowed_hosts: tuple[str, ...] = ()
    """Further Host names that browsers may use, beside loopback names and `host`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    debate: DebateSettings = DebateSettings()
    roles: Roles = Roles()
    runtimes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """`[runtimes.NAME]` tables; what may stand in each is the runtime plugin's business."""
    finetune: FineTuneConfig = FineTuneConfig()
    schedule: ScheduleSettings = ScheduleSettings()
    notify: NotifySettings = NotifySettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)


ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "TMDE_HOST": ("host",),
    "TMDE_PORT": ("port",),
    "TMDE_LOG_LEVEL": ("log_level",),
    "FINETUNE_MIN_TRACES": ("finetune", "min_traces"),
    "FINETUNE_MIN_QUALITY": ("finetune", "min_quality_score"),
    "FINETUNE_BACKEND": ("finetune", "backend"),
    "FINETUNE_BASE_MODEL": ("finetune", "base_model"),
    "FINETUNE_SCHEDULE": ("schedule", "finetune"),
    "FINETUNE_TIMEZONE": ("schedule", "timezone"),
    "BENCHMARK_SCHEDULE": ("schedule", "benchmark"),
    "TMDE_WEBHOOK_URL": ("notify", "webhook_url"),
    "TMDE_SUPERVISOR": ("supervisor", "place"),
}
"""Environment variable → the setting that it overrides."""


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`TMDE_DATA_DIR`, else the platform's place for a user's data."""
    if environ.get("TMDE_DATA_DIR"):
        return Path(environ["TMDE_DATA_DIR"]).expanduser()
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tmde"


def load_settings(
    data_dir: Path | None = None, environ: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings; flags win over environment over file. Creates the data directory.

    Raises:
        InvalidInputError: the file is no TOML, or a value is unknown or out of range; names file and line.
        InsufficientStorageError: the data directory cannot be made or written.
    """
    directory = (data_dir or default_data_dir(environ)).expanduser().absolute()
    _make(directory)
    file = directory / SETTINGS_FILE
    text = _read(file)
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(
            f"{file} is not valid TOML: {error}. Correct that line or move the file away."
        ) from None
    if "data_dir" in tree:
        raise _refused(f"{file}", text, "data_dir", "it cannot be set by a file that lies in it; use --data-dir")
    _check(tree, f"{file}", text)
    for variable, path in ENVIRONMENT.items():
        if environ.get(variable):
            _put(tree, path, environ[variable])
            _check(tree, f"the environment variable {variable}", "")
    tree |= {name: value for name, value in (flags or {}).items() if value is not None}
    tree["data_dir"] = str(directory)
    return _check(tree, "the command line", "")


def _check(tree: dict[str, Any], source: str, text: str) -> Settings:
    try:
        settings = msgspec.convert(_with_role_defaults(_wire(tree)), Settings, strict=False)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.([^`]*)`", str(error))
        field = _snake(found.group(1)) if found else ""
        unknown = re.search(r"unknown field `([^`]*)`", str(error))
        if unknown:
            field = ".".join(part for part in (field, _snake(unknown.group(1))) if part)
            sentence = f"there is no setting called `{_snake(unknown.group(1))}`"
        else:
            sentence = in_words(str(error).split(" - at ")[0], Settings, found.group(1) if found else "")
        raise _refused(source, text, field, sentence) from None
    debate = settings.debate
    if debate.min_rounds > debate.max_rounds:
        field = "debate.min_rounds" if _line_of(text, "debate.min_rounds") else "debate.max_rounds"
        sentence = f"min_rounds ({debate.min_rounds}) is above max_rounds ({debate.max_rounds})"
        raise _refused(source, text, field, sentence)
    return settings


def _with_role_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Fill up each role's table with that role's own defaults: naming a judge's runtime must not heat it up."""
    roles = tree.get("roles")
    if not isinstance(roles, dict):
        return tree
    shipped: dict[str, dict[str, Any]] = msgspec.to_builtins(Roles())
    filled = {
        name: {**shipped[name], **table} if name in shipped and isinstance(table, dict) else table
        for name, table in roles.items()
    }
    return {**tree, "roles": filled}


def _refused(source: str, text: str, field: str, sentence: str) -> InvalidInputError:
    line = _line_of(text, field)
    where = f"{source}, line {line}" if line else source
    return InvalidInputError(
        f"In {where}: {field or 'the settings'}: {sentence}. Correct it and start again.", field=field or None
    )


def _line_of(text: str, field: str) -> int | None:
    """The line on which a dotted key is set, in plain TOML with `[tables]`."""
    wanted, table = field.split("."), []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"^\[([^\[\]]+)\]", stripped):
            table = [part.strip().strip('"') for part in header.group(1).split(".")]
            if table == wanted:
                return number
        elif assignment := re.match(r"^([A-Za-z0-9_.\-\"]+)\s*=", stripped):
            key = table + [part.strip('"') for part in assignment.group(1).split(".")]
            if key == wanted[: len(key)]:
                return number
    return None


def _wire(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """snake_case keys to the camelCase of the wire; the tables below `runtimes` belong to plugins and stay as they are."""
    if not isinstance(tree, dict) or path[:1] == ("runtimes",):
        return tree
    return {_camel(key): _wire(value, (*path, key)) for key, value in tree.items()}


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InsufficientStorageError(
            f"The data directory {directory} cannot be made: {error.strerror}. Choose another with --data-dir."
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InsufficientStorageError(
            f"The data directory {directory} is read-only for this user. Correct its permissions, or choose another with --data-dir."
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{file} is not UTF-8 text: byte {error.start + 1} belongs to no character. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}. Correct that or move it away.") from None
