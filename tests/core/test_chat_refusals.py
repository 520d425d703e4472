"""What a server refuses is read from its error and left out of the next request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tmde_core.records.chat import ChatRequest, Message
from tmde_core.sdk.chat_http import Refusals, build_chat_body

REQUEST = ChatRequest(
    model="m",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="2+2?")),
    seed=1,
    stop=("END",),
    json_schema={"type": "object"},
    top_logprobs=5,
    thinking=False,
)
BODY = build_chat_body(REQUEST, extra={"reasoning_effort": "none", "lora": [{"id": 0, "scale": 1.0}]})


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def fastapi(*fields: str) -> dict[str, Any]:
    entries = [
        {"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"} for field in fields
    ]
    return {"detail": entries}


def left_out(error: object, status: int = 400, body: dict[str, Any] = BODY) -> set[str]:
    """The fields that the next request lacks."""
    refusals = Refusals()
    content = error if isinstance(error, bytes) else json.dumps(error).encode()
    refusals.learn(refusals.fit(body), status, content)
    return body.keys() - refusals.fit(body).keys()


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (openai("Unrecognized request argument supplied: stream_options"), 400, {"stream_options"}),
        (openai("Unknown parameter: 'stream_options'.", "stream_options", "unknown_parameter"), 400, {"stream_options"}),
        (openai("stream_options.include_usage is not supported", "stream_options.include_usage"), 400, {"stream_options"}),
        (fastapi("stream_options"), 422, {"stream_options"}),
        ({"errors": [{"field": "stream_options", "message": "unknown"}]}, 400, {"stream_options"}),
        (fastapi("chat_template_kwargs", "seed"), 422, {"chat_template_kwargs", "seed"}),
        ({"error": 'json: unknown field "stream_options"'}, 400, {"stream_options"}),
        (b"unknown field `stream_options`, expected one of `model`, `messages`, `temperature`, `top_p`", 422, {"stream_options"}),
        (openai("Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
                "temperature", "unsupported_value"), 400, {"temperature"}),
        (openai("`temperature` and `top_p` cannot both be specified for this model."), 400, {"temperature", "top_p"}),
        (openai("Unsupported parameter: 'stop' is not supported with this model.", "stop"), 400, {"stop"}),
        (openai("Unrecognized request argument supplied: seed"), 400, {"seed"}),
        (openai("logprobs are not supported with reasoning models"), 400, {"logprobs", "top_logprobs"}),
        (openai("You are not allowed to request logprobs from this model", "logprobs"), 403, set()),
        (openai("This response_format type is unavailable now"), 400, {"response_format"}),
        (openai("Invalid schema for response_format 'answer': additionalProperties is required", "response_format"), 400, {"response_format"}),
        ({"error": {"code": 400, "message": "Failed to parse grammar"}}, 400, {"response_format"}),
        (openai("json_schema is not supported by this model"), 400, {"response_format"}),
        ({"error": '"llama3" does not support thinking'}, 400, {"chat_template_kwargs", "reasoning_effort"}),
        (openai("chat_template is not supported for Mistral tokenizers: chat_template_kwargs"), 400, {"chat_template_kwargs"}),
        (openai("Invalid value: 'none'. Supported values are: 'low', 'medium', and 'high'.", "reasoning_effort"), 400, {"reasoning_effort"}),
        (openai("Reasoning is mandatory for this endpoint and cannot be disabled."), 400, {"chat_template_kwargs", "reasoning_effort"}),
        ({"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'chat_template_kwargs'), 'msg': 'Extra inputs "
          "are not permitted', 'input': {'temperature': 0.7, 'seed': 1}}]", "code": 400}, 400, {"chat_template_kwargs"}),
        ({"error": {"error": {"message": "seed: unexpected keyword argument 'seed'"}}}, 500, {"seed"}),
        (openai("The server had an error while processing your request. Please stop and try again."), 500, set()),
        (openai("bad request"), 400, set()),
        (b"<html>Bad Request: temperature</html>", 400, set()),
        (openai("the lora field is not supported", "lora"), 400, set()),
        (openai("This model's maximum context length is 4096 tokens. Reduce max_tokens or the messages."), 400, set()),
        (openai("max_tokens is too large: 512. This model supports at most 256 completion tokens.", "max_tokens"), 400, set()),
        (openai("max_tokens must be at least 1 and at most 256", "max_tokens"), 422, set()),
        (openai("Rate limit on temperature"), 429, set()),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_left_out_and_no_other(error: object, status: int, expected: set[str]) -> None:
    assert left_out(error, status) == expected


@pytest.mark.parametrize(
    "error",
    [
        openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "max_tokens"),
        openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        fastapi("max_tokens"),
        openai("max_tokens is deprecated in favor of max_completion_tokens"),
    ],
)  # fmt: skip
def test_max_tokens_becomes_max_completion_tokens(error: object) -> None:
    refusals = Refusals()
    assert refusals.learn(BODY, 400, json.dumps(error).encode())
    fitted = refusals.fit(BODY)
    assert "max_tokens" not in fitted
    assert fitted["max_completion_tokens"] == 512


def test_a_server_that_takes_no_token_limit_by_any_name_is_asked_without() -> None:
    refusals = Refusals()
    for _ in range(2):
        fitted = refusals.fit(BODY)
        name = next(name for name in fitted if name.startswith("max_"))
        assert refusals.learn(fitted, 400, json.dumps(openai(f"Unknown parameter: '{name}'.", name)).encode())
    assert not {"max_tokens", "max_completion_tokens"} & refusals.fit(BODY).keys()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("System role not supported", 400),
        ("Jinja Exception: System role not supported", 500),
        ("Conversation roles must alternate user/assistant/user/assistant/...", 400),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", 400),
        ("Only user and assistant roles are supported!", 400),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", 400),
        ("This model does not support system messages.", 422),
        ("invalid role: 'system'", 400),
        ("messages.0.role: Input should be 'user' or 'assistant'", 422),
        ("system prompts are not supported by this model", 400),
        ("The first message must be from the user", 400),
    ],
)
def test_a_refused_system_message_begins_the_first_question(message: str, status: int) -> None:
    refusals = Refusals()
    assert refusals.learn(BODY, status, json.dumps(openai(message)).encode())
    fitted = refusals.fit(BODY)
    assert fitted["messages"] == [{"role": "user", "content": "Be brief.\n\n2+2?"}]
    assert BODY["messages"][0]["role"] == "system", "the request itself is not changed"
    assert not refusals.learn(fitted, status, json.dumps(openai("System role not supported")).encode()), "no loop"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("The system is not available", 500),
        ("Internal system error, this is not your fault", 500),
        ("System message must be at the beginning.", 400),
        ("After the optional system message, conversation roles must alternate user/assistant", 400),
    ],
)
def test_other_errors_that_speak_of_a_system_change_nothing(message: str, status: int) -> None:
    refusals = Refusals()
    assert not refusals.learn(BODY, status, json.dumps(openai(message)).encode())
    assert refusals.fit(BODY) == BODY


def test_roles_that_must_alternate_are_joined() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    refusals, body = Refusals(), {"model": "m", "messages": messages}
    assert refusals.learn(body, 400, b'{"error": "roles must alternate user/assistant"}')
    assert refusals.fit(body)["messages"] == [{"role": "user", "content": "a\n\nb"}, messages[2]]


def test_what_one_model_refuses_another_gets() -> None:
    refusals = Refusals()
    refusals.learn(BODY, 400, json.dumps(openai("Unknown parameter", "seed")).encode())
    assert "seed" not in refusals.fit(BODY)
    assert "seed" in refusals.fit({**BODY, "model": "other"})


def test_a_value_that_is_refused_does_not_ban_other_values() -> None:
    refusals = Refusals()
    hot = {**BODY, "temperature": 2.5}
    assert refusals.learn(hot, 422, json.dumps(openai("temperature must be between 0 and 2", "temperature")).encode())
    assert "temperature" not in refusals.fit(hot)
    assert refusals.fit(BODY)["temperature"] == 0.7
