"""Defines all settings in one frozen struct. Each setting is described only here, at its field.

Keys in `tmde.toml` are snake_case. JSON (`GET /api/settings`) uses camelCase, as everywhere in TMDE.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.finetune import FineTuneConfig

SETTINGS_FILE = "tmde.toml"
MAX_QUERY_BYTES = 32 * 1024

PLUGIN_TABLES = ("runtimes", "backends", "judges", "registries")
"""The `[KIND.NAME]` tables. The keys below a name belong to the plugin that provides it and keep their spelling."""

FOLLOWED = ("roles", "finetune", "schedule", "notify", "benchmark")
"""The tables whose changes take effect at once. Changes of all other settings take effect at the next start."""

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
PluginTable = dict[str, dict[str, Any]]


class RoleSettings(Record):
    """The model of a role, and how it generates."""

    runtime: Annotated[
        Name,
        Meta(
            title="Runtime",
            description="The runtime's name: `tmde models` lists what each one has. `auto`: the default one.",
        ),
    ] = "auto"
    model: Annotated[
        str, Meta(title="Model", description="The runtime's own name of the model; empty: its default.")
    ] = ""
    temperature: Annotated[float, Meta(ge=0, le=2, title="Temperature", description="0 is greedy.")] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1, title="Top p", description="Nucleus sampling.")] = 0.95
    max_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=32_768,
            title="Longest answer",
            description="Most tokens that one answer may have.",
            extra={"unit": "tokens"},
        ),
    ] = 384
    thinking: Annotated[
        bool | None,
        Meta(
            title="Thinking",
            description=(
                "Whether a thinking model thinks before it answers. A thought gets 4,096 tokens beside the answer. Unset: the "
                "Proposer's and the Synthesizer's model does as it usually does; the Skeptic's and the Judge's does not think."
            ),
        ),
    ] = None


class Roles(Record):
    """The four roles of a debate."""

    proposer: RoleSettings = RoleSettings(temperature=0.7, max_tokens=384)
    skeptic: RoleSettings = RoleSettings(temperature=0.3, max_tokens=256)
    synthesizer: RoleSettings = RoleSettings(temperature=0.3, max_tokens=384)
    judge: RoleSettings = RoleSettings(temperature=0.0, max_tokens=16)


class DebateSettings(Record):
    """How a debate runs. A single debate may override each of these in its `config`."""

    min_rounds: Annotated[
        int, Meta(ge=1, le=10, title="Fewest rounds", description="Fewest rounds; not above `max_rounds`.")
    ] = 1
    max_rounds: Annotated[int, Meta(ge=1, le=10, title="Most rounds", description="Most rounds.")] = 3
    accept_score: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            title="Score that ends a debate",
            description="The debate ends early when the Skeptic accepts, or scores at least this and names nothing above minor.",
        ),
    ] = 8.0
    templates: Annotated[
        int, Meta(ge=0, le=5, title="Reasoning templates", description="How many reasoning templates are retrieved.")
    ] = 1
    synthesis: Annotated[
        Literal["always", "when-disputed", "never"],
        Meta(
            title="Synthesis",
            description=(
                "`when-disputed`: an answer that the Skeptic accepted stands as it is. "
                "`never`: the last proposal is the final answer."
            ),
        ),
    ] = "always"
    judge: Annotated[
        str,
        Meta(
            title="Judge",
            description=(
                "A judge's name. `auto`: the verifier where there is a reference, else the rubric judge. `none`: no scoring."
            ),
        ),
    ] = "auto"


class ScheduleSettings(Record):
    """When scheduled actions run."""

    finetune: Annotated[
        str, Meta(title="Training", description="When to train: five cron fields. `off` or empty: never.")
    ] = "0 2 * * 0"
    benchmark: Annotated[
        str,
        Meta(
            title="Benchmark",
            description="When to measure the active adapter: five cron fields. `off` or empty: never.",
        ),
    ] = ""
    timezone: Annotated[
        str,
        Meta(title="Time zone", description="An IANA name such as `Europe/Berlin`; empty: the machine's."),
    ] = ""


class NotifySettings(Record):
    """Where notifications are sent."""

    webhook_url: Annotated[
        str,
        Meta(
            title="Webhook",
            description="An http(s) address that gets each notification as JSON by POST; empty: nobody is told.",
        ),
    ] = ""


class SupervisorSettings(Record):
    """Which program starts training processes."""

    place: Annotated[
        Literal["server", "worker"],
        Meta(
            title="Place of training",
            description=(
                "Who starts training processes. `worker`: the server only enqueues, "
                "and a `tmde worker` on the same data directory trains."
            ),
        ),
    ] = "server"
    niceness: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            title="Niceness",
            description=(
                "How far training stands back for everything else. At 10 a trainer beside busy processes gets a tenth of a "
                "core, at 19 some hundredth, at 0 its share."
            ),
        ),
    ] = 10
    pause_runtimes: Annotated[
        Literal["never", "when-needed", "always"],
        Meta(
            title="Pause models",
            description=(
                "Whether a training run on the graphics card pauses the runtimes that hold the card, until it has ended. "
                "`when-needed`: if the card has no room for both."
            ),
        ),
    ] = "when-needed"


class BenchmarkSettings(Record):
    """How adapters are measured, and what TMDE does with the result."""

    judge: Annotated[
        str,
        Meta(
            title="Judge",
            description="A judge's name. `auto`: the verifier where a criterion can be checked, else the rubric judge.",
        ),
    ] = "auto"
    panel: Annotated[
        tuple[str, ...],
        Meta(
            title="Panel",
            description="Models that the judge `panel` asks beside the Judge role's: `RUNTIME` or `RUNTIME:MODEL`.",
        ),
    ] = ()
    after_training: Annotated[
        bool, Meta(title="After training", description="Run the quick benchmark on each new adapter.")
    ] = True
    auto_activate: Annotated[
        bool,
        Meta(title="Activate by itself", description="Activate an adapter that the quick benchmark proves better."),
    ] = False
    auto_rollback: Annotated[
        bool,
        Meta(
            title="Roll back by itself",
            description="Roll back an active adapter that a scheduled benchmark proves worse.",
        ),
    ] = False
    quality_weight: Annotated[
        float,
        Meta(
            ge=0.5,
            le=1,
            title="Weight of quality",
            description="Exponent of quality in the TMDE score; efficiency has the rest.",
        ),
    ] = 0.8


class Settings(Record):
    """All settings."""

    host: Annotated[
        str,
        Meta(
            title="Address",
            description=(
                "The address to listen on. Anything but a loopback address lets others on the network in: there is no login."
            ),
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, title="Port", description="0 takes a free port.")] = 8321
    data_dir: Annotated[
        str,
        Meta(
            title="Data directory",
            description="Cannot stand in the file, which lies in it: `--data-dir` or `TMDE_DATA_DIR`.",
        ),
    ] = ""
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            title="Further host names",
            description="Further Host names that browsers may use, beside the loopback names and `host`.",
        ),
    ] = ()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(title="Log level", description="What is logged.")
    ] = "info"
    debate: DebateSettings = DebateSettings()
    roles: Roles = Roles()
    runtimes: Annotated[
        PluginTable,
        Meta(title="Runtimes", description="`[runtimes.NAME]` belongs to the plugin that provides the runtime."),
    ] = msgspec.field(default_factory=dict)
    backends: Annotated[
        PluginTable,
        Meta(
            title="Training backends", description="`[backends.NAME]` belongs to the plugin that provides the backend."
        ),
    ] = msgspec.field(default_factory=dict)
    judges: Annotated[
        PluginTable, Meta(title="Judges", description="`[judges.NAME]` belongs to the plugin that provides the judge.")
    ] = msgspec.field(default_factory=dict)
    registries: Annotated[
        PluginTable,
        Meta(title="Registries", description="`[registries.NAME]` belongs to the plugin that provides the registry."),
    ] = msgspec.field(default_factory=dict)
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
