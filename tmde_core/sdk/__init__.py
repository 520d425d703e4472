"""The public package: everything that a plugin may import from TMDE's core.

`hookimpl` marks a plugin's functions as hooks. Everything else is in the modules below:

- `tmde_core.sdk.hooks`: every hook, with an example.
- `tmde_core.sdk.context`: the argument of `create`, and the base of a plugin's settings.
- `tmde_core.sdk.training`, `runtimes`, `judges`, `suites`, `registries`: the protocols, descriptors and values of each
  kind.
- `tmde_core.sdk.worker`: the kit for a training process.
- `tmde_core.sdk.events`: the events that an observer receives.
- `tmde_core.sdk.commands`: support for a plugin's own commands.
- `tmde_core.sdk.chat_http`: the chat protocol of OpenAI-style servers.
- `tmde_core.sdk.chat_answers`, `chat_events`, `chat_members`, `chat_errors`, `chat_refusals`: its parts, for runtimes
  that speak another protocol or have a connection of their own.
- `tmde_core.sdk.lenient_json`: JSON of other programs, read member by member.
- `tmde_core.sdk.thoughts`: keeps the thoughts of thinking models apart from their answers.
- `tmde_core.sdk.adapters`, `safetensors_header`: the files of an adapter.
- `tmde_core.sdk.files`: files that are written completely or not at all.
- `tmde_core.sdk.records`: the base of immutable records, and JSON.
- `tmde_core.sdk.errors`: the errors that plugins raise.

Everything outside this package is private and may change in any release.
"""

from __future__ import annotations

import pluggy

__all__ = ["hookimpl"]

hookimpl = pluggy.HookimplMarker("tmde")
"""Marks a function of a plugin as the implementation of the hook of the same name."""
