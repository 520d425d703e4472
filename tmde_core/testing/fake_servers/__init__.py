"""Imitate model servers that cannot be installed in a test, with small ASGI programs on loopback.

`FakeVllm`, `FakeLlamaServer` and `FakeOllama` imitate vLLM (0.10 and later), llama-server and Ollama (0.12.11 and
later): the paths, bodies, status codes and wording of their documented protocols, with canned words instead of a model.
They prove that a client sends the right requests in the right order, not that the servers behave as documented. `FlakyServer` imitates any unreliable
OpenAI-style server, `OddServer` one that answers oddly in a way chosen by name, and `ThinkingServer` a thinking model
in the dialect of several servers.

    async with serving(OddServer("choices-null")) as url:
        ...

`python -m tmde_core.testing.fake_servers --help` starts one by hand, to try a client or the pages with it.
"""

from __future__ import annotations

from tmde_core.testing.fake_servers.adapting import FakeLlamaServer, FakeVllm
from tmde_core.testing.fake_servers.base import WORDS, Call, FakeServer, serving
from tmde_core.testing.fake_servers.flaky import FlakyServer
from tmde_core.testing.fake_servers.odd import ODDITIES, OddServer
from tmde_core.testing.fake_servers.protocols import FakeOllama
from tmde_core.testing.fake_servers.thinking import DIALECTS, ThinkingServer

__all__ = [
    "DIALECTS",
    "ODDITIES",
    "WORDS",
    "Call",
    "FakeLlamaServer",
    "FakeOllama",
    "FakeServer",
    "FakeVllm",
    "FlakyServer",
    "OddServer",
    "ThinkingServer",
    "serving",
]
