"""Defines every error that TMDE raises on purpose.

    TmdeError
    ├── NotFoundError                 404 not_found
    │   └── FileMissingError          404 not_found
    ├── ConflictError                 409 conflict
    │   └── InstallationCancelledError 409 conflict
    ├── InvalidInputError             400 invalid_input
    │   └── BrokenFileError           400 invalid_input
    ├── UnprocessableError            422 unprocessable
    │   ├── InsufficientTracesError   422 insufficient_traces
    │   └── AdapterInvalidError       422 adapter_invalid
    ├── TooLargeError                 413 too_large
    ├── RateLimitedError              429 rate_limited
    ├── UnauthorizedError             401 unauthorized
    ├── ForbiddenError                403 forbidden
    ├── InsufficientStorageError      507 insufficient_storage
    ├── RegistryUnreachableError      503 registry_unreachable
    ├── HubUnreachableError           503 hub_unreachable
    ├── PluginUnavailableError        503 plugin_unavailable
    ├── RuntimePausedError            503 runtime_paused
    └── WorkerFailedError             502 worker_failed
        ├── ContextOverflowError      502 context_overflow
        ├── EmptyAnswerError          502 empty_answer
        ├── OnlyThoughtError          502 only_thought
        └── RuntimeTimeoutError       502 runtime_timeout

`detail` is one sentence for a person: what happened, why, and what to do now. `context` holds the numbers and names
that a program may need (`current`, `required`, `field`, …).
"""

from __future__ import annotations

from typing import ClassVar


class TmdeError(Exception):
    """The base of all errors: a sentence for people, a stable code and an HTTP status."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **context: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.context = {key: value for key, value in context.items() if value is not None}


class NotFoundError(TmdeError):
    """The requested object does not exist."""

    code, status, title = "not_found", 404, "Not found"


class FileMissingError(NotFoundError):
    """The file that was given as input does not exist."""


class ConflictError(TmdeError):
    """The request conflicts with the current state (already running, already ended, active, …)."""

    code, status, title = "conflict", 409, "Conflict"


class InstallationCancelledError(ConflictError):
    """A person has cancelled this installation in another place: on a page, over HTTP or in another terminal."""


class InvalidInputError(TmdeError):
    """The input is malformed or out of range; `context["field"]` names the field."""

    code, status, title = "invalid_input", 400, "Invalid input"


class BrokenFileError(InvalidInputError):
    """The settings file, the environment or the database cannot be used. What the caller asked for is not the cause."""


class UnprocessableError(TmdeError):
    """The request is well-formed but cannot be carried out."""

    code, status, title = "unprocessable", 422, "Cannot be done"


class InsufficientTracesError(UnprocessableError):
    """There are too few eligible traces to train on; context has `current` and `required`."""

    code, title = "insufficient_traces", "Not enough traces"


class AdapterInvalidError(UnprocessableError):
    """The files of an adapter are damaged, do not match it or cannot be used."""

    code, title = "adapter_invalid", "Adapter invalid"


class TooLargeError(TmdeError):
    """The input has more bytes than allowed; context has `limit`."""

    code, status, title = "too_large", 413, "Too large"


class RateLimitedError(TmdeError):
    """There were too many requests; context has `retryAfter` in seconds."""

    code, status, title = "rate_limited", 429, "Too many requests"


class UnauthorizedError(TmdeError):
    """The key is missing or wrong."""

    code, status, title = "unauthorized", 401, "Unauthorized"


class ForbiddenError(TmdeError):
    """The request is not allowed from this client (wrong Host or Origin, not the owner)."""

    code, status, title = "forbidden", 403, "Forbidden"


class InsufficientStorageError(TmdeError):
    """The disk is full or read-only."""

    code, status, title = "insufficient_storage", 507, "Insufficient storage"


class RegistryUnreachableError(TmdeError):
    """The template registry does not respond."""

    code, status, title = "registry_unreachable", 503, "Registry unreachable"


class HubUnreachableError(TmdeError):
    """The hub of models does not respond, or responds with an error."""

    code, status, title = "hub_unreachable", 503, "Hub unreachable"


class PluginUnavailableError(TmdeError):
    """The plugin does not exist or cannot work here; the detail says what is missing."""

    code, status, title = "plugin_unavailable", 503, "Plugin unavailable"


class RuntimePausedError(TmdeError):
    """A training run uses the graphics card, so the model is paused; context may have `retryAfter` in seconds."""

    code, status, title = "runtime_paused", 503, "Model paused"


class WorkerFailedError(TmdeError):
    """A model server or worker process failed during this request."""

    code, status, title = "worker_failed", 502, "Worker failed"


class ContextOverflowError(WorkerFailedError):
    """The prompt does not fit the model's context; context has `limit` in tokens if it is known."""

    code, title = "context_overflow", "Prompt too long for the model"


class EmptyAnswerError(WorkerFailedError):
    """The model answered with no text."""

    code, title = "empty_answer", "The model gave an empty answer"


class OnlyThoughtError(WorkerFailedError):
    """The model thought until the token limit and gave no answer; context has `maxTokens`."""

    code, title = "only_thought", "The model thought, but gave no answer"


class RuntimeTimeoutError(WorkerFailedError):
    """A model server did not respond in time."""

    code, title = "runtime_timeout", "Model server timed out"
