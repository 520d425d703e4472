"""Why a new adapter would not answer, as the training dialog says it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_ui.kit.serving import why_new_adapter_is_idle

OLLAMA = "Ollama 0.35.0 loads no adapters. Export one file with `tmde lora export`."


def services_with(able: RuntimeCapabilities, idle: str | None) -> SimpleNamespace:
    async def get(_name: str) -> None:
        return None

    return SimpleNamespace(
        workspace=SimpleNamespace(
            settings=SimpleNamespace(roles=SimpleNamespace(proposer=SimpleNamespace(runtime="ollama"))),
            find_why_idle=lambda: idle,
        ),
        runtimes=SimpleNamespace(made=lambda _: SimpleNamespace(capabilities=able), get=get),
    )


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (
            OLLAMA,
            "The adapter will not answer. Ollama 0.35.0 loads no adapters. Export one file with tmde lora export.",
        ),
        (
            "",
            (
                "The adapter will not answer. The Proposer's runtime 'ollama' cannot serve adapters. "
                "Choose another model for the Proposer first."
            ),
        ),
    ],
)
async def test_the_reason_is_told_once(note: str, words: str) -> None:
    services = services_with(RuntimeCapabilities(adapters_note=note), f"It cannot serve adapters. {note}")
    assert await why_new_adapter_is_idle(services) == words  # type: ignore[arg-type]


async def test_a_runtime_that_serves_adapters_needs_no_words() -> None:
    assert await why_new_adapter_is_idle(services_with(RuntimeCapabilities(adapters=True), None)) is None  # type: ignore[arg-type]
