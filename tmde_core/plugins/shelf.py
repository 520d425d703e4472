"""Stores the descriptors of one kind by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from tmde_core.errors import InvalidInputError, PluginUnavailableError
from tmde_core.sdk.context import Descriptor
from tmde_core.sdk.hooks import AUTO

D = TypeVar("D", bound=Descriptor)


class Shelf(Generic[D]):
    """Stores the descriptors of one kind by name. The first plugin that provides a name keeps it."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._items: dict[str, D] = {}
        self._providers: dict[str, str] = {}

    def add(self, descriptor: D, provider: str) -> str | None:
        """Add a descriptor and return None; return the current provider if the name is already taken."""
        taken = self._providers.get(descriptor.name)
        if taken is None:
            self._items[descriptor.name] = descriptor
            self._providers[descriptor.name] = provider
        return taken

    def get(self, name: str) -> D:
        """Return the descriptor with this name.

        Raises:
            PluginUnavailableError: no descriptor has this name. The detail lists the available names.
        """
        if name not in self._items:
            raise PluginUnavailableError(self._describe_missing(name), name=name, available=self.names())
        return self._items[name]

    def choose(self, name: str, field: str) -> D:
        """Return the descriptor that a person names in `field`, or the default one for `auto`.

        An unknown name is an invalid input here, because a person wrote it.

        Raises:
            InvalidInputError: no descriptor has this name. The detail and `available` list the available names.
        """
        if name == AUTO and (default := self.default()) is not None:
            return default
        if name not in self._items:
            raise InvalidInputError(f"{field}: {self._describe_missing(name)}", field=field, available=self.names())
        return self._items[name]

    def default(self) -> D | None:
        """Return the first default descriptor in the order of plugin names; None if there is none."""
        return next((one for one in self._items.values() if getattr(one, "default", False)), None)

    def provider(self, name: str) -> str | None:
        """Return the name of the plugin that provides `name`; None if no plugin provides it."""
        return self._providers.get(name)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._items)

    def _describe_missing(self, name: str) -> str:
        if name == AUTO:
            install = f"No installed plugin provides a default {self.noun}. Install a plugin that offers one"
            return f"{install}, or name one of: {', '.join(self.names())}." if self._items else f"{install}."
        return f"There is no {self.noun} called {name[:60]!r}; available: {', '.join(self.names()) or 'none'}."

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[D]:
        return iter(self._items.values())
