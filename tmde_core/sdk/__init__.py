"""The public package: all that a plugin may import of TMDE's core.

`hookimpl` marks a plugin's functions as hooks. Everything else is in one module for each kind of plugin:

- `tmde_core.sdk.hooks`: every hook, with an example.
- `tmde_core.sdk.training`, `runtimes`, `judges`, `suites`, `registries`: ports, descriptors and values by kind.
- `tmde_core.sdk.worker`: the kit of a process that trains.
- `tmde_core.sdk.chat_http`: the chat dialect of OpenAI-style servers.
- `tmde_core.sdk.adapters`: the files of an adapter.
- `tmde_core.sdk.files`: files that are whole or not there.
- `tmde_core.sdk.records`: the base of immutable records, and JSON.
- `tmde_core.sdk.errors`: the errors that plugins raise.

What is not in this package is private and may change in any release.
"""

from __future__ import annotations

import pluggy

__all__ = ["hookimpl"]

hookimpl = pluggy.HookimplMarker("tmde")
"""Marks a function of a plugin as the implementation of the hook of the same name."""
