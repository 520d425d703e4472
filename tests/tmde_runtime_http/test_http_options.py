"""The settings of the HTTP runtimes are read strictly, and every complaint names the setting."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tmde_core.errors import InvalidInputError
from tmde_core.testing import make_context
from tmde_runtime_http.options import OLLAMA_URL, OllamaSettings, OpenAISettings


def read(name: str, table: dict[str, Any], settings: type) -> Any:
    return make_context(settings, table=f"runtimes.{name}", **table).settings


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"base_urll": "http://x"}, "base_urll"),
        ({"base_url": 7}, "base_url"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://x:99999"}, "base_url"),
        ({"base_url": "http://x/?a=1"}, "base_url"),
        ({"flavor": "tgi"}, "flavor"),
        ({"retries": 11}, "retries"),
        ({"retries": True}, "retries"),
        ({"first_token_timeout": 0}, "first_token_timeout"),
        ({"token_timeout": "long"}, "token_timeout"),
        ({"context_length": 10}, "context_length"),
        ({"api_key_env": "not a name"}, "api_key_env"),
    ],
)
def test_a_bad_setting_is_named(table: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read("openai", table, OpenAISettings)
    assert caught.value.context["field"] == f"runtimes.openai.{field}"
    assert f"runtimes.openai.{field}" in caught.value.detail


@pytest.mark.parametrize("text", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_may_end_as_people_copy_it(text: str) -> None:
    assert read("openai", {"base_url": text}, OpenAISettings).base_url == "http://h:1"


def test_an_address_keeps_its_path() -> None:
    assert read("openai", {"base_url": "https://h/api/v1"}, OpenAISettings).base_url == "https://h/api"


def test_ollama_needs_no_settings() -> None:
    assert read("ollama", {}, OllamaSettings).base_url == OLLAMA_URL


def test_a_key_comes_from_the_table_or_from_the_environment_but_not_from_both() -> None:
    assert read("openai", {"api_key": "k"}, OpenAISettings).key({}) == "k"
    assert read("openai", {"api_key_env": "K"}, OpenAISettings).key({"K": "k"}) == "k"
    assert read("openai", {}, OpenAISettings).key({}) == ""
    for table, environ in (
        ({"api_key_env": "K"}, {}),
        ({"api_key": "k", "api_key_env": "K"}, {"K": "k"}),
        ({"api_key": "k\nx"}, {}),
    ):
        with pytest.raises(InvalidInputError, match="api_key"):
            read("openai", table, OpenAISettings).key(environ)


def test_the_plugin_module_loads_no_http_client() -> None:
    code = "import sys, tmde_runtime_http.plugin as p; p.tmde_model_runtimes(); print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
