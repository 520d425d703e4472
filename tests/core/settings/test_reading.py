"""Settings: flags over environment over file, and a mistake is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tmde_core.errors import InsufficientStorageError, InvalidInputError
from tmde_core.settings import ENVIRONMENT, Roles, Settings, default_data_dir, load_settings


def load(directory: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    if text:
        (directory / "tmde.toml").write_text(text, encoding="utf-8")
    return load_settings(directory, environ=environ or {}, flags=flags)


def complaint(directory: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        load(directory, text, environ, **flags)
    return caught.value


def test_without_a_file_everything_has_its_default(tmp_path: Path):
    settings = load(tmp_path / "new")
    assert settings == Settings(data_dir=str(tmp_path / "new"))
    assert settings.data_path.is_dir()


def test_the_file_is_read(tmp_path: Path):
    settings = load(tmp_path, "port = 9000\n[roles.judge]\nruntime = 'ollama'\n[runtimes.ollama]\nbaseUrl_x = 'y'\n")
    assert (settings.port, settings.roles.judge.runtime) == (9000, "ollama")
    assert settings.roles.proposer.runtime == "embedded"
    assert settings.runtimes == {"ollama": {"baseUrl_x": "y"}}


def test_a_role_that_is_set_in_part_keeps_its_own_defaults_for_the_rest(tmp_path: Path):
    roles = load(tmp_path, "[roles.judge]\nruntime = 'ollama'\n[roles.skeptic]\nmax_tokens = 99\n").roles
    shipped = Roles()
    assert (roles.judge.temperature, roles.judge.max_tokens) == (shipped.judge.temperature, shipped.judge.max_tokens)
    assert (roles.skeptic.temperature, roles.skeptic.max_tokens) == (shipped.skeptic.temperature, 99)


def test_environment_wins_over_file_and_flags_over_both(tmp_path: Path):
    text = "host = 'file'\nport = 1\nlog_level = 'error'\n"
    settings = load(tmp_path, text, {"TMDE_HOST": "environment", "TMDE_PORT": "2"}, port=3, host=None)
    assert (settings.host, settings.port, settings.log_level) == ("environment", 3, "error")


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_each_environment_variable_reaches_its_setting(variable: str, tmp_path: Path):
    value = {"TMDE_LOG_LEVEL": "debug", "TMDE_SUPERVISOR": "worker"}.get(variable, "7")
    settings: Any = load(tmp_path, environ={variable: value})
    for part in ENVIRONMENT[variable]:
        settings = getattr(settings, part)
    assert str(settings) in (value, f"{value}.0")


def test_an_empty_variable_sets_nothing(tmp_path: Path):
    assert load(tmp_path, environ={"TMDE_PORT": ""}).port == 8321


def test_a_wrong_variable_is_named(tmp_path: Path):
    assert "the environment variable TMDE_PORT" in complaint(tmp_path, "", {"TMDE_PORT": "soon"}).detail


def test_a_wrong_flag_is_named(tmp_path: Path):
    detail = complaint(tmp_path, "", port=70_000).detail
    assert "the command line" in detail
    assert "port" in detail


def test_broken_toml_names_file_and_line(tmp_path: Path):
    detail = complaint(tmp_path, "port = 9000\n\nhost = \n").detail
    assert f"{tmp_path / 'tmde.toml'} is not valid TOML" in detail
    assert "line 3" in detail


WRONG = {
    "unknown key": ("port = 1\nprot = 2\n", 2, "prot", "there is no setting called `prot`"),
    "unknown key in a table": (
        "[debate]\nmax_rounds = 2\nmin_roundz = 1\n",
        3,
        "debate.min_roundz",
        "no setting called",
    ),
    "unknown table": ("port = 1\n[colours]\nred = 1\n", 2, "colours", "no setting called"),
    "out of range": ("\n[debate]\nmax_rounds = 99\n", 3, "debate.max_rounds", "of at most 10"),
    "deep and out of range": ("[roles.judge]\ntop_p = 0\n", 2, "roles.judge.top_p", "above 0"),
    "dotted key": ("roles.judge.top_p = 3\n", 1, "roles.judge.top_p", "of at most 1"),
    "inline table": ("port = 1\ndebate = { max_rounds = 99 }\n", 2, "debate.max_rounds", "of at most 10"),
    "wrong type": ("port = [1]\n", 1, "port", "must be a whole number"),
    "not a table": ("debate = 5\n", 1, "debate", "must be an object"),
    "not a number": ("[finetune]\nlearning_rate = nan\n", 2, "finetune.learning_rate", "of at least "),
    "not a choice": ("log_level = 'loud'\n", 1, "log_level", "loud"),
    "bad runtime name": ("[roles.judge]\nruntime = 'A B'\n", 2, "roles.judge.runtime", "matches"),
    "rounds upside down": (
        "[debate]\nmax_rounds = 2\nmin_rounds = 5\n",
        3,
        "debate.min_rounds",
        "above max_rounds (2)",
    ),
    "rounds below the default": ("[debate]\nmin_rounds = 5\n", 2, "debate.min_rounds", "above max_rounds (3)"),
    "its own place": ("data_dir = '/elsewhere'\n", 1, "data_dir", "use --data-dir"),
}


@pytest.mark.parametrize(("text", "line", "field", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_named_with_its_line(text: str, line: int, field: str, said: str, tmp_path: Path):
    error = complaint(tmp_path, text)
    assert f"{tmp_path / 'tmde.toml'}, line {line}: {field}: " in error.detail
    assert said in error.detail
    assert error.context["field"] == field


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    (tmp_path / "tmde.toml").write_bytes(b"\xef\xbb\xbfport = 5\n")
    assert load(tmp_path).port == 5


def test_a_binary_file_is_named(tmp_path: Path):
    (tmp_path / "tmde.toml").write_bytes(b"\xff\x00\xfe")
    assert "is not UTF-8 text: byte 1 belongs to no character" in complaint(tmp_path, "").detail
    (tmp_path / "tmde.toml").unlink()
    (tmp_path / "tmde.toml").mkdir()
    assert "cannot be read: Is a directory." in complaint(tmp_path, "").detail


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InsufficientStorageError, match=r"cannot be made: .*--data-dir"):
        load(tmp_path / "file")


def test_the_data_directory_comes_from_the_environment_else_from_the_platform(tmp_path: Path):
    assert default_data_dir({"TMDE_DATA_DIR": "/somewhere"}) == Path("/somewhere")
    assert default_data_dir({"XDG_DATA_HOME": "/xdg"}) == Path("/xdg/tmde")
    assert default_data_dir({}) == Path.home() / ".local" / "share" / "tmde"
