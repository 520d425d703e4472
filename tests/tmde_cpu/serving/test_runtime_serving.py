"""The embedded runtime on the real model: adapters, cancellation, the prompt cache."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from gguf import GGUFWriter

from tmde_core.errors import AdapterInvalidError
from tmde_core.sdk.runtimes import AdapterRef, ChatDelta
from tmde_core.testing import make_context
from tmde_core.testing.contracts.runtimes import answer, question
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.serving.served import MAX_ADAPTERS

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def make_data_dir(directory: Path, model: Path) -> Path:
    """A data directory that holds the embedded model."""
    (directory / "models").mkdir(parents=True)
    (directory / "models" / model.name).symlink_to(model)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> AsyncIterator[EmbeddedRuntime]:
    data_dir = make_data_dir(tmp_path_factory.mktemp("served") / "data", embedded_model)
    made = EmbeddedRuntime(make_context(EmbeddedSettings, str(data_dir)))
    await made.start()
    yield made
    await made.stop()


def make_adapter(directory: Path, seed: int, *, width: int = 576, architecture: str = "llama") -> AdapterRef:
    """A LoRA adapter with random weights, strong enough to change what the model says."""
    directory.mkdir(parents=True)
    writer = GGUFWriter(directory / "adapter.gguf", architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    random = np.random.default_rng(seed)
    for block in range(30):
        a, b = random.normal(0, 0.1, (4, width)), random.normal(0, 0.1, (576, 4))
        writer.add_tensor(f"blk.{block}.attn_q.weight.lora_a", a.astype(np.float32))
        writer.add_tensor(f"blk.{block}.attn_q.weight.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AdapterRef(id=f"adapter-{seed}", directory=str(directory))


async def slots(runtime: EmbeddedRuntime) -> list[dict[str, Any]]:
    """What the default model's server says of its slots."""
    async with (await runtime._model("")).lease(None) as generation:
        return list(msgspec.json.decode((await generation.child.client.get("/slots")).content))


async def first_logprobs(
    runtime: EmbeddedRuntime, adapter: AdapterRef | None, text: str = "Name a colour of the sky."
) -> dict[str, float]:
    """What the model thinks of the first token of an answer: the fingerprint of the weights that answered."""
    request = question(text, max_tokens=1, top_logprobs=10, adapter=adapter)
    deltas = [item async for item in runtime.chat(request) if isinstance(item, ChatDelta)]
    return {other.token: round(other.logprob, 2) for other in deltas[0].logprobs[0].top}


async def test_without_an_adapter_the_bare_model_answers_though_adapters_are_loaded(
    runtime: EmbeddedRuntime, tmp_path: Path
) -> None:
    bare = await first_logprobs(runtime, None)
    one, two = make_adapter(tmp_path / "1", 1), make_adapter(tmp_path / "2", 2)
    await runtime.load_adapter(one)
    assert await first_logprobs(runtime, None) == bare
    with_one = await first_logprobs(runtime, one)
    with_two = await first_logprobs(runtime, two)  # names an adapter that nobody loaded: it is loaded first
    assert with_one != bare != with_two != with_one
    # The same prompt from the cache must not carry one adapter's work over to another.
    for _ in range(2):
        assert await first_logprobs(runtime, None) == bare
        assert await first_logprobs(runtime, one) == with_one
        assert await first_logprobs(runtime, two) == with_two
    together = await asyncio.gather(*(first_logprobs(runtime, adapter) for adapter in (None, one, two)))
    for seen, alone in zip(together, (bare, with_one, with_two), strict=True):
        assert max(seen, key=seen.__getitem__) == max(alone, key=alone.__getitem__)


async def test_no_prompt_cache_carries_an_adapters_work_to_the_bare_model(
    runtime: EmbeddedRuntime, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "5", 5)
    await runtime.load_adapter(adapter)
    asked = "Sky. " * 60
    bare = await first_logprobs(runtime, None, asked)
    await first_logprobs(runtime, adapter, asked)
    for other in ("Something else here. ", "Another thing. ", "A third. ", "Blue and green. ", "Last one. "):
        await first_logprobs(runtime, None, other * 50)  # every slot is taken by another prompt meanwhile
    assert await first_logprobs(runtime, None, asked) == bare


async def test_loading_an_adapter_disturbs_no_request_under_way(runtime: EmbeddedRuntime, tmp_path: Path) -> None:
    before = (await runtime.status()).pid
    stream = runtime.chat(question("Write a long story about a dragon.", max_tokens=150))
    async with aclosing(stream):
        pieces = [await anext(stream)]
        await runtime.load_adapter(make_adapter(tmp_path / "3", 3))
        pieces += [item async for item in stream]
    assert (await runtime.status()).pid != before
    assert "adapter-3" in (await runtime.status()).adapters
    assert len(pieces) > 100


async def test_the_adapter_unused_for_longest_makes_room(runtime: EmbeddedRuntime, tmp_path: Path) -> None:
    adapters = [make_adapter(tmp_path / str(seed), seed) for seed in range(10, 11 + MAX_ADAPTERS)]
    for adapter in adapters[:MAX_ADAPTERS]:
        await runtime.load_adapter(adapter)
    await answer(runtime, question(adapter=adapters[0], max_tokens=1))
    await runtime.load_adapter(adapters[-1])
    assert set((await runtime.status()).adapters) == {f"adapter-{seed}" for seed in (10, 12, 13, 14)}


async def test_a_forgotten_adapter_is_loaded_anew_from_where_it_then_lies(
    runtime: EmbeddedRuntime, tmp_path: Path
) -> None:
    old = make_adapter(tmp_path / "old", 20)
    seen = await first_logprobs(runtime, old)
    await runtime.unload_adapter(old.id)
    assert old.id not in (await runtime.status()).adapters
    make_adapter(tmp_path / "new", 21)
    assert await first_logprobs(runtime, AdapterRef(id=old.id, directory=str(tmp_path / "new"))) != seen


@pytest.mark.parametrize("damage", ["absent", "no gguf", "a model", "foreign", "wrong shape"])
async def test_an_adapter_that_cannot_be_served_is_refused_with_its_id(
    runtime: EmbeddedRuntime, tmp_path: Path, embedded_model: Path, damage: str
) -> None:
    directory = tmp_path / "bad"
    match damage:
        case "no gguf":
            directory.mkdir()
            (directory / "adapter.gguf").write_bytes(b"not this")
        case "a model":
            directory.mkdir()
            (directory / "adapter.gguf").symlink_to(embedded_model)
        case "foreign":
            make_adapter(directory, 30, architecture="qwen2")
        case "wrong shape":
            make_adapter(directory, 30, width=64)
    pid = (await runtime.status()).pid
    with pytest.raises(AdapterInvalidError, match="adapter-30"):
        await runtime.load_adapter(AdapterRef(id="adapter-30", directory=str(directory)))
    assert (await runtime.status()).pid == pid
    await answer(runtime, question(max_tokens=1))


async def until_slots_are(runtime: EmbeddedRuntime, busy: int) -> list[dict[str, Any]]:
    """The server's slots, once so many of them are at work. It tells when asked and not otherwise, so it is asked again."""
    while True:
        found = await slots(runtime)
        if sum(slot["is_processing"] for slot in found) == busy:
            return found
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("phase", ["reading", "generating"])
async def test_leaving_a_stream_frees_its_slot_before_the_answer_is_done(runtime: EmbeddedRuntime, phase: str) -> None:
    long = " ".join(f"Fact {n}: the number {n * 7919} is odd or even." for n in range(120))
    text = long if phase == "reading" else "Write a very long story about a dragon."
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in runtime.chat(question(f"{time.time_ns()} {text}", max_tokens=2000)):
            begun.set()

    reader = asyncio.create_task(read())
    if phase == "generating":
        await begun.wait()
    working = {slot["id"] for slot in await until_slots_are(runtime, 1) if slot["is_processing"]}
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    left = [slot for slot in await until_slots_are(runtime, 0) if slot["id"] in working]
    assert left[0]["next_token"][0]["n_decoded"] < (1 if phase == "reading" else 2000)


async def test_a_background_request_waits_for_waiting_foreground_ones(runtime: EmbeddedRuntime) -> None:
    order: list[str] = []

    async def ask(name: str, background: bool) -> None:
        await answer(runtime, question(f"Say {name}.", max_tokens=20, background=background))
        order.append(name)

    waiting = [asyncio.create_task(ask(f"fore-{n}", False)) for n in range(8)]
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(ask("back", True)))
    await asyncio.gather(*waiting)
    assert order.index("back") >= 4  # all eight were let in before it, four at a time


async def test_models_lists_files_and_says_what_is_wrong_with_them(
    runtime: EmbeddedRuntime, embedded_model: Path
) -> None:
    directory = Path((await runtime.models())[0].path or "").parent
    (directory / "damaged.gguf").write_bytes(b"GGUF\x03\x00")
    (directory / "other.gguf").symlink_to(embedded_model)
    found = {model.name: model for model in await runtime.models()}
    assert found[embedded_model.name].default
    assert found[embedded_model.name].loaded
    assert "damaged" in found["damaged.gguf"].detail
    assert not found["other.gguf"].loaded
    _, end = await answer(runtime, question(model="other.gguf", max_tokens=2))
    assert end.model == "other.gguf"
    assert (await runtime.status()).state == "ready"


TYPED = "Name a colour.<|im_end|>\n<|im_start|>assistant\nRed."
"""A question with control tokens that a person typed: it goes to the server as token ids."""


Weights = dict[AdapterRef | None, dict[str, float]]


def nearest(seen: dict[str, float], known: Weights) -> AdapterRef | None:
    """The adapter whose answer is most like `seen`.

    An answer from a cached prompt differs a little: llama.cpp computes one token and many with other roundings.
    """

    def distance(adapter: AdapterRef | None) -> float:
        other = known[adapter]
        return sum(abs(seen.get(token, -8) - other.get(token, -8)) for token in seen.keys() | other.keys())

    return min(known, key=distance)


async def test_a_text_with_control_tokens_is_answered_with_the_adapter_that_the_request_names(
    runtime: EmbeddedRuntime, tmp_path: Path
) -> None:
    one, two = make_adapter(tmp_path / "21", 21), make_adapter(tmp_path / "22", 22)
    await runtime.load_adapter(one)
    await runtime.load_adapter(two)
    plain: Weights = {adapter: await first_logprobs(runtime, adapter) for adapter in (None, one, two)}
    typed: Weights = {adapter: await first_logprobs(runtime, adapter, TYPED) for adapter in (None, one, two)}
    # Both ways of asking, in turn: none takes the adapter of the request before it, nor its cached prompt.
    for first, second in ((one, None), (None, two), (two, one), (one, one), (None, None)):
        assert nearest(await first_logprobs(runtime, first, TYPED), typed) == first
        assert nearest(await first_logprobs(runtime, second), plain) == second
        assert nearest(await first_logprobs(runtime, second, TYPED), typed) == second
        assert nearest(await first_logprobs(runtime, first), plain) == first
    asked = [(adapter, text) for adapter in (None, one, two) for text in (TYPED, "Name a colour of the sky.")]
    together = await asyncio.gather(*(first_logprobs(runtime, adapter, text) for adapter, text in asked))
    for (adapter, text), seen in zip(asked, together, strict=True):
        assert nearest(seen, typed if text == TYPED else plain) == adapter


async def test_a_text_with_control_tokens_loads_an_adapter_that_nobody_loaded(
    runtime: EmbeddedRuntime, tmp_path: Path
) -> None:
    new = make_adapter(tmp_path / "31", 31)
    first = await first_logprobs(runtime, new, TYPED)
    assert new.id in (await runtime.status()).adapters
    typed: Weights = {new: first, None: await first_logprobs(runtime, None, TYPED)}
    await runtime.unload_adapter(new.id)
    assert new.id not in (await runtime.status()).adapters
    assert nearest(await first_logprobs(runtime, None, TYPED), typed) is None
    assert nearest(await first_logprobs(runtime, new, TYPED), typed) == new
