"""The fake servers that are started by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tmde_core.testing.fake_servers import DIALECTS, ODDITIES, OddServer, ThinkingServer
from tmde_core.testing.fake_servers.__main__ import make


@pytest.mark.parametrize(
    "name",
    ["vllm", "ollama", "odd:", *(f"odd:{name}" for name in ODDITIES), *(f"thinking:{name}" for name in DIALECTS)],
)
def test_every_server_can_be_started_by_its_name(name: str) -> None:
    assert make(name)


def test_oddities_can_be_combined() -> None:
    server = make("odd:no-done,no-max-tokens")
    assert isinstance(server, OddServer)
    assert server.oddities == ("no-done", "no-max-tokens")


def test_a_thinking_model_can_be_disobedient() -> None:
    server = make("thinking:", obeys=False, refuses=True)
    assert isinstance(server, ThinkingServer)
    assert (server.dialect, server.obeys, server.refuses) == ("tags", False, True)


@pytest.mark.parametrize("name", ["x", "odd:x", "thinking:x", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        make(name)


def test_the_help_names_every_server() -> None:
    command = [sys.executable, "-m", "tmde_core.testing.fake_servers", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [name for name in (*DIALECTS, *ODDITIES) if name not in told] == []
