"""Compares the embedded runtime with the bare llama.cpp server and `transformers.generate`, in turns within one run.

    python bench/runtime_speed.py [DATA_DIR]

Absolute figures depend on the machine and on its other load. Ratios of medians, measured in turns, depend on them much
less.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any

from tmde_core.records.chat import ChatEnd, ChatRequest, Message
from tmde_core.sdk.context import PluginContext
from tmde_cpu.embedded import verify_embedded
from tmde_cpu.serving.openmp import WAITING
from tmde_cpu.serving.options import EmbeddedSettings, usable_cores
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.serving.simple_questions import QualityReport, measure_quality

ROUNDS = 8
TOKENS = 160
TRANSFORMERS_TOKENS = 24
"""Fewer tokens, because each takes ten times as long; the number hardly changes the rate."""
STORY = "Write a very long and detailed story about a dragon who keeps a library."
FACTS = " ".join(f"Fact {n}: item {n} costs {n * 7919 % 997} coins." for n in range(110))
CANCELS = 8
SLOT_POLL_SECONDS = 0.002

BARE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.port = sys.argv[1], 4096, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
"""llama.cpp's server with its defaults, except for the number of threads."""

TRANSFORMERS = """
import sys, time, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from tmde_cpu.base_model import ensure_base_model, load_tokenizer
torch.set_num_threads(int(sys.argv[2]))
directory = ensure_base_model(Path(sys.argv[1]), "")
tokenizer = load_tokenizer(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
text = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[3]}], add_generation_prompt=True, tokenize=False)
prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)
def seconds(tokens):
    started = time.perf_counter()
    with torch.inference_mode():
        model.generate(**prompt, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
    return time.perf_counter() - started
seconds(2)
print("ready", flush=True)
for line in sys.stdin:
    tokens = int(line)
    print(tokens / (seconds(tokens + 1) - seconds(1)), flush=True)
"""
"""Prints a rate for each line of stdin.

The time of the first token is subtracted, because it is the time for the prompt.
"""


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    return asyncio.run(_measure(_data_dir()))


def _data_dir() -> Path:
    named = os.environ.get("TMDE_DATA_DIR")
    return Path(named).absolute() if named else Path(__file__).parents[1] / "data"


async def _measure(data_dir: Path) -> str:
    model, threads = verify_embedded(data_dir / "models"), str(usable_cores())
    environment = {**os.environ, **WAITING}
    bare, address = _child(["-c", BARE, str(model), threads], environment)
    # transformers gets the same OpenMP settings. With spinning threads it falls from 17 to 3 tokens per second on a
    # busy machine, and TMDE would then look better than it is.
    slow, _ = _child(["-c", TRANSFORMERS, str(data_dir), threads, STORY], environment)
    runtime = EmbeddedRuntime(PluginContext(data_dir, EmbeddedSettings()))
    try:
        await runtime.start()
        rates: dict[str, list[float]] = {"tmde": [], "bare": [], "transformers": []}
        for turn in range(ROUNDS + 1):
            found: dict[str, float] = {}
            for name in ("tmde", "bare") if turn % 4 < 2 else ("bare", "tmde"):  # neither is always the first
                if name == "tmde":
                    found[name] = await _through_tmde(runtime)
                else:
                    found[name] = await asyncio.to_thread(_through_bare, address)
            if turn % 2:  # every other turn: each of transformers takes seconds
                found["transformers"] = await asyncio.to_thread(_through_transformers, slow)
            for name, rate in found.items():
                if turn:  # the first turn warms up
                    rates[name].append(rate)
        together = await _four_at_once(runtime)
        cached = await _cached_share(runtime)
        reading = await _cancel_ms(runtime, while_reading=True)
        generating = await _cancel_ms(runtime, while_reading=False)
        report = await measure_quality(runtime)
        memory = (await runtime.status()).rss_bytes or 0
    finally:
        await runtime.stop()
        for child in (bare, slow):
            assert child.stdin is not None
            child.stdin.close()
            child.wait()
    return _section(rates, together, cached, reading, generating, report, memory)


def _child(arguments: list[str], environment: Any) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    return child, _line(child.stdout)


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline().strip()
    if not line:
        raise SystemExit("A process that was to be measured ended before it was ready.")
    return line


def _request(text: str, max_tokens: int = TOKENS, *, background: bool = False) -> ChatRequest:
    messages = (Message(role="user", content=text),)
    return ChatRequest(model="", messages=messages, temperature=0.0, max_tokens=max_tokens, background=background)


async def _through_tmde(runtime: EmbeddedRuntime) -> float:
    """Return the tokens per second between the first and the last piece, as the caller receives them."""
    first = last = 0.0
    async for item in runtime.chat(_request(STORY)):
        last = time.perf_counter()
        first = first or last
        if isinstance(item, ChatEnd):
            return (item.completion_tokens - 1) / (last - first)
    raise AssertionError("a stream ends with a ChatEnd")


def _through_bare(address: str) -> float:
    """Return the same rate for the bare server, read by the simplest possible client."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    body = {"messages": [{"role": "user", "content": STORY}], "temperature": 0, "max_tokens": TOKENS, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    times = [time.perf_counter() for line in connection.getresponse() if b'"content":"' in line]
    connection.close()
    return (len(times) - 1) / (times[-1] - times[0])


def _through_transformers(child: subprocess.Popen[str]) -> float:
    assert child.stdin is not None
    child.stdin.write(f"{TRANSFORMERS_TOKENS}\n")
    child.stdin.flush()
    return float(_line(child.stdout))


async def _four_at_once(runtime: EmbeddedRuntime) -> float:
    """Return the tokens per second of four concurrent answers together."""

    async def one(number: int) -> int:
        ends = [item async for item in runtime.chat(_request(f"{number}. {STORY}", 80)) if isinstance(item, ChatEnd)]
        return ends[0].completion_tokens

    started = time.perf_counter()
    return sum(await asyncio.gather(*map(one, range(4)))) / (time.perf_counter() - started)


async def _cached_share(runtime: EmbeddedRuntime) -> float:
    """Return the share of a prompt that came from the cache.

    Only the end of the prompt is new, as from one round of a debate to the next.
    """
    text = f"{time.time_ns()} {FACTS[:1500]}"
    ends = []
    for more in ("", " A critic asked for more detail. Answer again."):
        ends += [item async for item in runtime.chat(_request(text + more, 8)) if isinstance(item, ChatEnd)]
    return ends[-1].cached_tokens / ends[-1].prompt_tokens


async def _cancel_ms(runtime: EmbeddedRuntime, *, while_reading: bool) -> list[float]:
    """Return the milliseconds from leaving the stream until the server reports that no slot is busy."""
    found = []
    for attempt in range(CANCELS):
        text = f"{time.time_ns()} {FACTS if while_reading else STORY}"
        begun = asyncio.Event()

        async def read(text: str = text, begun: asyncio.Event = begun) -> None:
            stream = runtime.chat(_request(text, 1000))
            async with aclosing(stream):
                async for _ in stream:
                    begun.set()

        reader = asyncio.create_task(read())
        if while_reading:
            await asyncio.sleep(0.6 + 0.03 * attempt)  # some way into a prompt that takes ten seconds
        else:
            await begun.wait()
        started = time.perf_counter()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        while True:
            if not await runtime.busy_slots():
                break
            await asyncio.sleep(SLOT_POLL_SECONDS)
        found.append(1000 * (time.perf_counter() - started))
    return found


def _section(
    rates: dict[str, list[float]],
    together: float,
    cached: float,
    reading: list[float],
    generating: list[float],
    report: QualityReport,
    memory: int,
) -> str:
    middle = {name: statistics.median(found) for name, found in rates.items()}
    bare = statistics.median(t / b for t, b in zip(rates["tmde"], rates["bare"], strict=True))
    slow = middle["tmde"] / middle["transformers"]
    rows = [
        ("through TMDE", f"{middle['tmde']:.1f} tokens/s", ""),
        ("bare llama.cpp server", f"{middle['bare']:.1f} tokens/s", f"TMDE is {bare:.3f}× (target ≥ 0.98×)"),
        ("transformers.generate", f"{middle['transformers']:.1f} tokens/s", f"TMDE is {slow:.1f}× (target ≥ 8×)"),
        ("four answers at once", f"{together:.1f} tokens/s", f"{together / middle['tmde']:.2f}× of one alone"),
        ("prompt from the cache", f"{cached:.0%}", "a prompt whose last sentence is new"),
        ("leaving while it reads", _spread(reading), "until the slot is free (target ≤ 200 ms)"),
        ("leaving while it writes", _spread(generating), "until the slot is free (target ≤ 200 ms)"),
        ("quality of the served form", f"{report.right} of {report.asked}", "`python -m tmde_cpu.serving.quality`"),
        ("memory of the server", f"{memory / 1e6:.0f} MB", "4 slots of 4096 tokens"),
    ]
    lines = [f"The embedded runtime with {report.model}.", "", "| | | |", "|---|---|---|"]
    lines += [f"| {name} | {figure} | {remark} |" for name, figure, remark in rows]
    told = (
        f"Medians of {ROUNDS} turns of {TOKENS} tokens (transformers: {len(rates['transformers'])} of "
        f"{TRANSFORMERS_TOKENS}, float32), taken alternately on {usable_cores()} cores, all with the same OpenMP settings."
    )
    lines += ["", told, ""]
    return "\n".join(lines)


def _spread(figures: list[float]) -> str:
    return f"median {statistics.median(figures):.0f} ms, worst {max(figures):.0f} ms"


if __name__ == "__main__":
    print(main())
