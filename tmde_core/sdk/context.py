"""Defines the argument of `create`, the base of a plugin's settings, and the base of all descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from tmde_core.records.base import Record

if TYPE_CHECKING:
    from typing import dataclass_transform
else:
    from tmde_core.records.base import dataclass_transform

__all__ = ["Descriptor", "MakingDescriptor", "PluginContext", "PluginSettings"]


# Subclasses inherit `frozen` from msgspec; this decorator tells type checkers so.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a plugin's own settings: a table such as `[judges.length]` in `tmde.toml`.

    Subclass it, give every field a type and a default, and set the descriptor's `settings` to the class. Describe a
    field with `Annotated[…, msgspec.Meta(title=…, description=…, ge=…, le=…)]`. A field's name is its key in the file.
    Unknown keys and values of the wrong type or range are refused with a sentence. Put further rules into
    `__post_init__`, and raise `ValueError` with a sentence there.
    """


S_co = TypeVar("S_co", bound=PluginSettings, covariant=True)


@dataclass(frozen=True)
class PluginContext(Generic[S_co]):
    """The argument of every `create`: the data directory, the plugin's settings, and a logger."""

    data_dir: Path
    """The data directory. A plugin stores its own files in a folder with its own name in this directory."""
    settings: S_co
    """The plugin's validated settings: an instance of the descriptor's `settings` type."""
    log: FilteringBoundLogger = field(default_factory=lambda: structlog.get_logger("tmde.plugin"))
    """A logger bound to the plugin's name."""

    @property
    def models_dir(self) -> Path:
        """The folder of model files that all plugins share."""
        return self.data_dir / "models"


class Descriptor(Record, frozen=True, kw_only=True):
    """The base of what hooks return: a name, and a summary for people."""

    name: str
    """1 to 40 of `a`–`z`, `0`–`9`, `-` and `_`, unique among its kind; settings, flags and URLs use the name."""
    summary: str
    """One line for lists, without a final full stop."""


class MakingDescriptor(Descriptor, frozen=True, kw_only=True):
    """A descriptor of an object that is created with its own settings."""

    settings: type[PluginSettings] = PluginSettings
    """The type of the settings table; the default has no settings."""
    default: bool = False
    """Whether `auto` in the settings selects this object. If several are the default, the first by plugin name is
    used."""
