"""The descriptors of one kind, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from tmde_core.errors import InvalidInputError, PluginUnavailableError
from tmde_core.sdk.context import Descriptor
from tmde_core.sdk.hooks import AUTO

D = TypeVar("D", bound=Descriptor)


class Shelf(Generic[D]):
    """The descriptors of one kind, by name; a name that is taken stays with its first provider."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._items: dict[str, D] = {}
        self._providers: dict[str, str] = {}

    def add(self, descriptor: D, provider: str) -> str | None:
        """Put a descriptor on the shelf; returns the present provider when the name is taken."""
        taken = self._providers.get(descriptor.name)
        if taken is None:
            self._items[descriptor.name] = descriptor
            self._providers[descriptor.name] = provider
        return taken

    def get(self, name: str) -> D:
        """Return the descriptor of that name.

        Raises:
            PluginUnavailableError: there is none; the detail lists those there are.
        """
        if name not in self._items:
            raise PluginUnavailableError(self._describe_missing(name), name=name, available=self.names())
        return self._items[name]

    def choose(self, name: str, field: str) -> D:
        """Return the descriptor that a person names in `field`, or the default one for `auto`.

        An unknown name is the person's mistake, not our lack.

        Raises:
            InvalidInputError: there is none; the detail and `available` list those there are.
        """
        if name == AUTO and (default := self.default()) is not None:
            return default
        if name not in self._items:
            raise InvalidInputError(f"{field}: {self._describe_missing(name)}", field=field, available=self.names())
        return self._items[name]

    def default(self) -> D | None:
        """Return the first descriptor, in the order of plugin names, that is marked as the default."""
        return next((one for one in self._items.values() if getattr(one, "default", False)), None)

    def provider(self, name: str) -> str | None:
        """Return the plugin that provides `name`."""
        return self._providers.get(name)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._items)

    def _describe_missing(self, name: str) -> str:
        return f"There is no {self.noun} called {name[:60]!r}; available: {', '.join(self.names()) or 'none'}."

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[D]:
        return iter(self._items.values())
