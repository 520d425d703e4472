"""Measures how much a training run slows down a debate and the API.

The server is a real `tmde serve` with the embedded model and the CPU trainer. Each debate is held twice, once while the
trainer is stopped and once while the trainer works. The order changes from pair to pair.
"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles

import httpx
from _server import served

from tmde_core.finetune.supervision import supervisor

DEBATES = 12
"""The number of pairs of debates."""
RATIO_LIMIT, P99_LIMIT_MS = 1.25, 100.0
ASK_SECONDS = 0.05
PATHS = ("/api/health", "/api/traces?limit=50", "/api/finetune")
DEBATE = {"maxRounds": 1, "synthesis": "never", "judge": "none", "seed": 1, "maxTokens": 96, "temperature": 0.0}
FIRST_STEP_SECONDS = 240.0


def traces() -> str:
    """Return enough traces as JSON Lines to train for longer than the benchmark takes."""
    lines = []
    for a in range(12, 32):
        for b in range(3, 13):
            answer = (
                f"{a} times {b}: {a} times 10 is {a * 10}, and the difference makes {a * b}. The result is {a * b}."
            )
            lines.append(json.dumps({"query": f"What is {a} times {b}?", "finalAnswer": answer, "qualityScore": 9}))
    return "\n".join(lines)


def debated(client: httpx.Client, number: int) -> tuple[float, int]:
    """Hold a debate; return the seconds from the question to the end, and the number of tokens."""
    began = time.perf_counter()
    question = f"Case {number}: which is heavier, {number + 3} kilograms of lead or {number + 3} kilograms of feathers, and why?"
    started = client.post("/api/debates", json={"query": question, "config": DEBATE}).raise_for_status().json()
    tokens = 0
    with client.stream("GET", started["eventsUrl"]) as stream:
        for line in stream.iter_lines():
            tokens += line == "event: token"
            if line in ("event: error", "event: cancelled"):
                raise SystemExit("A debate failed.")
    return time.perf_counter() - began, tokens


def asked(url: str, stop: threading.Event, taken: list[float]) -> None:
    """Request the API's paths in turn until `stop` is set, and append the milliseconds of each request to `taken`."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.wait(ASK_SECONDS):
            began = time.perf_counter()
            client.get(PATHS[len(taken) % len(PATHS)]).raise_for_status()
            taken.append((time.perf_counter() - began) * 1000)


def trained(client: httpx.Client) -> str:
    """Start a training run, wait for its second step and return the run's id."""
    wanted = {"epochs": 10, "batchSize": 8, "gradientAccumulationSteps": 1}
    run_id: str = client.post("/api/finetune", json={"config": wanted}).raise_for_status().json()["runId"]
    begun = time.monotonic()
    while time.monotonic() - begun < FIRST_STEP_SECONDS:
        if client.get(f"/api/finetune/{run_id}/metrics").json()["total"] >= 2:
            return run_id
        time.sleep(0.5)
    raise SystemExit("The training run made no step.")


def signalled(run_id: str, number: int) -> None:
    """Send a signal to the trainer's processes, to stop or to continue the trainer."""
    for process in supervisor.find_processes(run_id):
        process.send_signal(number)


def measure(url: str) -> tuple[list[tuple[float, int]], list[tuple[float, int]], list[float], int]:
    """Measure debates while the trainer is stopped and while it works.

    Returns:
        The debates with the trainer stopped, the debates with the trainer working, the API's times during the latter,
            and the number of steps that the trainer made.
    """
    idle: list[tuple[float, int]] = []
    busy: list[tuple[float, int]] = []
    api: list[float] = []
    with httpx.Client(base_url=url, timeout=120) as client:
        kind = {"Content-Type": "application/x-ndjson"}
        client.post("/api/traces/import", content=traces(), headers=kind).raise_for_status()
        debated(client, 0)  # starts the model
        run_id = trained(client)
        before = client.get(f"/api/finetune/{run_id}/metrics").json()["total"]
        for number in range(1, DEBATES + 1):
            for works in (False, True) if number % 2 else (True, False):
                signalled(run_id, signal.SIGCONT if works else signal.SIGSTOP)
                # Ask two different questions of equal length: the prompt cache would remember a repeated question.
                question = 100 + 2 * number + works
                if not works:
                    idle.append(debated(client, question))
                    continue
                time.sleep(0.5)  # the trainer is in the middle of something
                stop = threading.Event()
                asking = threading.Thread(target=asked, args=(url, stop, api))
                asking.start()
                busy.append(debated(client, question))
                stop.set()
                asking.join()
        signalled(run_id, signal.SIGCONT)
        steps = client.get(f"/api/finetune/{run_id}/metrics").json()["total"] - before
        client.delete(f"/api/finetune/{run_id}").raise_for_status()
    return idle, busy, api, steps


def main() -> str:
    """Run the benchmark and return a Markdown section; raise SystemExit if a limit is missed."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "data") as (url, _):
        idle, busy, api, steps = measure(url)
    alone, beside = (median(seconds for seconds, _ in part) for part in (idle, busy))
    pace_alone, pace_beside = (median(tokens / seconds for seconds, tokens in part) for part in (idle, busy))
    p99 = quantiles(api, n=100)[98]
    ratio = beside / alone
    text = (
        "| | trainer stopped | trainer works | | limit |\n|---|---:|---:|---:|---:|\n"
        f"| a debate, question to end | {alone:.2f} s | {beside:.2f} s | {ratio:.2f}× | ≤ {RATIO_LIMIT:g}× |\n"
        f"| its tokens a second | {pace_alone:.1f} | {pace_beside:.1f} | {pace_beside / pace_alone:.2f}× | |\n"
        f"| the API meanwhile, p50 / p99 | | {median(api):.1f} ms / {p99:.1f} ms | | < {P99_LIMIT_MS:g} ms |\n\n"
        f"The embedded model; medians of {DEBATES} debates of one round each way, in turn; {len(api)} requests. "
        f"The trainer made {steps} steps.\n"
    )
    if ratio > RATIO_LIMIT or p99 > P99_LIMIT_MS:
        print(text)
        raise SystemExit("A limit was missed.")
    return text


if __name__ == "__main__":
    print(main())
