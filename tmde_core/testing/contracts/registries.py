"""What must hold of every template registry. The client has no port yet, so the contract is small.

class TestMyRegistry(RegistryContract):
    def registry(self):
        return MyRegistry(make_context(MySettings))
"""

from __future__ import annotations

import pytest

from tmde_core.testing.contracts.rules import calling, provide, require

__all__ = ["RegistryContract"]


class RegistryContract:
    """Run by pytest in subclasses called `Test…`."""

    def registry(self) -> object:
        """Return the client under test, made as `create` makes it."""
        raise NotImplementedError

    def test_a_client_is_made(self, request: pytest.FixtureRequest) -> None:
        """With the default settings, and without reaching for the network."""
        with calling("create", "It must work with the default settings. Leave what can fail to the client's methods."):
            client = provide(request, self.registry)
        require(client is not None, "create returned None. TMDE needs the client. Return it.")
