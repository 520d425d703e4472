"""How long servers ask to wait, and what they say in errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import ContextOverflowError, TmdeError
from tmde_core.sdk.chat_errors import LONGEST_RETRY_SECONDS, is_error, read_told, response_error, retry_seconds

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
SOON = NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "17"}, 17),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after": ".5"}, 0.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "3s"}, 3),
        ({"retry-after": "5 seconds"}, 5),
        ({"retry-after": "1e1"}, 10),
        ({"retry-after": "17, 18"}, 17),
        ({"retry-after": "9" * 400}, LONGEST_RETRY_SECONDS),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "١٢"}, None),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Mon, 30 Nov 2026 13:00:30 +0100"}, 30),
        ({"retry-after": "Monday, 30-Nov-26 12:00:30 GMT"}, 30),
        ({"retry-after": "2026-11-30T12:00:30Z"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Mon, 30 Feb 2026 12:00:30 GMT"}, None),
        ({"retry-after": "Mon, 30 Nov 999999 12:00:30 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"retry-after-ms": "-3"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "tomorrow"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read(headers: dict[str, str], expected: float | None) -> None:
    assert retry_seconds(headers, NOW.timestamp()) == expected


def test_a_date_is_compared_with_the_servers_own_clock() -> None:
    ahead = timedelta(days=3)
    headers = {"date": format_datetime(NOW + ahead), "retry-after": format_datetime(SOON + ahead)}
    assert retry_seconds(headers) == 30


@given(st.integers(-(10**10), 10**10), st.integers(-14, 14))
def test_any_date_gives_a_wait_within_bounds(seconds: int, hours: int) -> None:
    there = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=hours)))
    wait = retry_seconds({"retry-after": format_datetime(there)}, NOW.timestamp())
    assert wait is not None
    assert 0 <= wait <= LONGEST_RETRY_SECONDS


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=40)))
def test_nonsense_in_headers_never_crashes(headers: dict[str, str]) -> None:
    wait = retry_seconds(headers)
    assert wait is None or 0 <= wait <= LONGEST_RETRY_SECONDS


@pytest.mark.parametrize("status", [429, 503, 529])
def test_the_wait_is_told_with_the_error_of_a_busy_server(status: int) -> None:
    error = response_error(status, b"{}", "the server", headers={"retry-after": "2.5"})
    assert error.context["retryAfter"] == 2.5
    assert f"HTTP {status}" in error.detail
    assert "wait 2.5 s" in error.detail


@pytest.mark.parametrize(
    "error",
    [
        None,
        "",
        "  ",
        {},
        [],
        False,
        0,
        {"message": None, "code": ""},
        [{}],
        "null",
        "None",
        {"code": 200, "message": "OK"},
        {"code": 0},
    ],
)
def test_an_error_member_without_content_is_no_error(error: object) -> None:
    assert not is_error(error)


@pytest.mark.parametrize(
    "error", ["x", True, 500, {"code": 500}, {"code": 0, "message": "boiler burst"}, ["x"], {"a": {"b": "c"}}]
)
def test_an_error_member_with_content_is_an_error(error: object) -> None:
    assert is_error(error)


@given(st.binary(max_size=200))
def test_any_error_body_gives_an_error_for_people(body: bytes) -> None:
    error = response_error(500, body, "the server")
    assert isinstance(error, TmdeError)
    assert error.detail.startswith("The ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "a\\n b"}}', "a b"),
        (b'{"error": "a"}', "a"),
        (b'[{"error": {"message": "a"}}]', "a"),
        (b'{"error": {"error": {"message": "a"}}}', "a"),
        (b'{"message": "a", "error": null}', "a"),
        (b'{"detail": [{"loc": ["body", "seed"], "msg": "no"}]}', "seed: no"),
        (b'{"detail": [null, 5]}', "[None, 5]"),
        (b"plain words", "plain words"),
        (b"plain\0 words\x1b", "plain words"),
        (b"<html>words</html>", ""),
        (b"null", ""),
        (b'{"error": {"message": 5, "code": NaN}}', "5"),
    ],
)
def test_the_servers_message_is_found_in_any_form(body: bytes, message: str) -> None:
    assert read_told(body).message == message


@pytest.mark.parametrize(
    "said",
    [
        "the request exceeds the available context size. try increasing the context size or enable context shift",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        (
            "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length"
            " of only 4096 tokens, which is not enough."
        ),
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "prompt is too long: 5000 tokens > 4096 maximum",
        "Input is too long for requested model.",
        "The input token count (5000) exceeds the maximum number of tokens allowed (4096).",
        "Prompt contains 5000 tokens and 0 draft tokens, too large for model with 4096 maximum context length",
        "Requested tokens (5000) exceed context window of 4096",
        "Prompt length 5000 is greater than max_seq_len 4096",
        "输入长度超过模型最大上下文长度 4096",
    ],
)
def test_every_server_s_words_for_a_prompt_that_does_not_fit_are_known(said: str) -> None:
    error = response_error(400, msgspec.json.encode({"error": {"message": said}}), "the server")
    assert isinstance(error, ContextOverflowError)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("Rate limit reached: tokens per minute", 429),
        ("max_tokens is too large: 100000", 400),
        ("Invalid token in the request", 400),
        ("The message is empty", 400),
    ],
)
def test_other_errors_are_not_taken_for_a_prompt_that_does_not_fit(said: str, status: int) -> None:
    error = response_error(status, msgspec.json.encode({"error": {"message": said}}), "the server")
    assert not isinstance(error, ContextOverflowError)
    assert said in error.detail


def test_a_redirect_names_the_address_to_which_it_leads() -> None:
    error = response_error(307, b"", "the server", headers={"Location": "https://example.com/v1"})
    assert "sends the request on to https://example.com/v1 (HTTP 307). Correct the address" in error.detail


def test_an_answer_that_is_a_page_or_nothing_says_so() -> None:
    assert "It sent a page of HTML." in response_error(200, b"<html><title>Sign in</title></html>", "the server").detail
    assert "It sent nothing." in response_error(204, b"", "the server").detail


def test_an_error_within_an_error_s_message_is_read() -> None:
    detail = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
    told = read_told(msgspec.json.encode({"object": "error", "message": detail, "type": "invalid_request_error"}))
    assert (told.message, told.params) == ("seed: Extra inputs are not permitted", ("seed",))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": {"message": "bad thing"}}'}}},
        {"error": {"message": '{"error": {"message": "bad thing"}}'}},
        {"__type": "ValidationException", "Message": "bad thing"},
        {"success": False, "errors": [{"code": 7003, "message": "bad thing"}], "result": None},
    ],
)
def test_the_words_of_the_server_behind_a_proxy_are_found(body: dict[str, object]) -> None:
    assert read_told(msgspec.json.encode(body)).message == "bad thing"


def test_a_proxy_that_quotes_without_end_is_read_to_an_end() -> None:
    text = "deep"
    for _ in range(12):
        text = msgspec.json.encode({"error": {"message": text}}).decode()
    assert "deep" in read_told(text.encode()).message


def test_a_long_wait_is_told_in_hours() -> None:
    assert "It asks to wait 24 h." in response_error(503, b"busy", "the server", "86400").detail
