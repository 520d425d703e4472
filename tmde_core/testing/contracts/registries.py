"""Define the rules for every template registry. The client has no port yet, so the contract is small.

class TestMyRegistry(RegistryContract):
    def registry(self):
        return MyRegistry(make_context(MySettings))
"""

from __future__ import annotations

import pytest

from tmde_core.testing.contracts.rules import calling, provide, require

__all__ = ["RegistryContract"]


class RegistryContract:
    """The rules for registries. pytest runs them in subclasses called `Test…`."""

    def registry(self) -> object:
        """Return the client under test, made in the same way as `create` makes it."""
        raise NotImplementedError

    def test_a_client_is_made(self, request: pytest.FixtureRequest) -> None:
        """Require that the client can be made with default settings and without network access."""
        with calling("create", "It must work with the default settings. Leave what can fail to the client's methods."):
            client = provide(request, self.registry)
        require(client is not None, "create returned None. TMDE needs the client. Return it.")
