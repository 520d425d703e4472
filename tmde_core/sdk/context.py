"""What `create` is given, the base of a plugin's settings, and what all descriptors have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, dataclass_transform

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from tmde_core.records.base import Record

__all__ = ["Descriptor", "MakingDescriptor", "PluginContext", "PluginSettings"]


# msgspec lets subclasses inherit `frozen`; type checkers need to be told so.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a plugin's own settings: a table such as `[judges.length]` in `tmde.toml`.

    Subclass it, give every field a type and a default, and name the class in the descriptor's `settings`. Describe a
    field with `Annotated[…, msgspec.Meta(title=…, description=…, ge=…, le=…)]`. A field's name is its key in the file.
    Unknown keys and values of the wrong type or range are refused with a sentence. Further rules go into
    `__post_init__`, which raises `ValueError` with a sentence.
    """


S_co = TypeVar("S_co", bound=PluginSettings, covariant=True)


@dataclass(frozen=True)
class PluginContext(Generic[S_co]):
    """What every `create` is given: the data directory, the plugin's settings, and a logger."""

    data_dir: Path
    """The data directory. A plugin keeps its own files in a folder of its own name below it."""
    settings: S_co
    """The plugin's validated settings: an instance of the descriptor's `settings` type."""
    log: FilteringBoundLogger = field(default_factory=lambda: structlog.get_logger("tmde.plugin"))
    """A logger that is bound to the plugin's name."""

    @property
    def models_dir(self) -> Path:
        """The folder of model files that all plugins share."""
        return self.data_dir / "models"


class Descriptor(Record, frozen=True, kw_only=True):
    """What every hook returns: a name, and a sentence for people."""

    name: str
    """1 to 40 of `a`–`z`, `0`–`9`, `-` and `_`, unique among its kind; settings, flags and URLs use it."""
    summary: str
    """One line for lists, without a final full stop."""


class MakingDescriptor(Descriptor, frozen=True, kw_only=True):
    """A descriptor of something that is made with settings of its own."""

    settings: type[PluginSettings] = PluginSettings
    """The type of its settings table. Without one it has no settings."""
    default: bool = False
    """Whether it is used where the settings say `auto`. If several say so, the first by plugin name is used."""
