"""The errors that plugins raise. Each has one sentence, an HTTP status and an exit code. See `tmde_core.errors`."""

from __future__ import annotations

from tmde_core.errors import (
    AdapterInvalidError,
    ConflictError,
    ContextOverflowError,
    EmptyAnswerError,
    ForbiddenError,
    InsufficientStorageError,
    InsufficientTracesError,
    InvalidInputError,
    NotFoundError,
    PluginUnavailableError,
    RateLimitedError,
    RegistryUnreachableError,
    RuntimeTimeoutError,
    TmdeError,
    TooLargeError,
    UnauthorizedError,
    UnprocessableError,
    WorkerFailedError,
)

__all__ = [
    "AdapterInvalidError",
    "ConflictError",
    "ContextOverflowError",
    "EmptyAnswerError",
    "ForbiddenError",
    "InsufficientStorageError",
    "InsufficientTracesError",
    "InvalidInputError",
    "NotFoundError",
    "PluginUnavailableError",
    "RateLimitedError",
    "RegistryUnreachableError",
    "RuntimeTimeoutError",
    "TmdeError",
    "TooLargeError",
    "UnauthorizedError",
    "UnprocessableError",
    "WorkerFailedError",
]
