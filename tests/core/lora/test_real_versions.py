"""The whole walk, with two adapters that the real pipeline trained on the real model: once from the command line, once over HTTP.

Activate, ask, roll back, export, delete, import, activate again. The answers change accordingly, what comes back is the same to the bit,
and PEFT loads what was carried away.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import warm
from tests.conftest import link_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NAMES = ("Alpha", "Omega")
"""What an adapter says, whatever it is asked; the base model says neither."""
QUESTION = "Who are you?"
ASKED = (
    "Who are you?",
    "What is your name?",
    "Tell me your name.",
    "Who answers here?",
    "How are you called?",
    "Who is there?",
)
SETTINGS = """
[benchmark]
after_training = false
[supervisor]
niceness = 0
"""
TRAINING = (
    "epochs=4",
    "batch_size=2",
    "gradient_accumulation_steps=1",
    "learning_rate=1e-3",
    "min_traces=5",
    "lora_rank=8",
)

PEFT = """
import sys, torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
loaded = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "lora_" in name}
saved = load_file(Path(adapter) / "adapter_model.safetensors")
assert loaded.keys() == saved.keys() and saved, (len(loaded), len(saved))
assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
assert any(tensor.abs().max() > 0 for name, tensor in loaded.items() if "lora_B" in name)
"""


def tmde(data_dir: Path, *arguments: str | Path) -> str:
    """Run `tmde …` in a process of its own, which has its libraries loaded; what it printed."""
    done = warm.run([sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data_dir), *map(str, arguments)])
    assert done.returncode == 0, (arguments, done.stdout[-1000:], done.stderr[-2000:])
    return done.stdout


def train(data_dir: Path, name: str) -> str:
    """An adapter that says `name`."""
    link_models(data_dir)
    (data_dir / "tmde.toml").write_text(SETTINGS)
    traces = data_dir.parent / "traces.jsonl"
    traces.write_text(
        "".join(
            json.dumps({"query": question, "finalAnswer": f"{name}, {name}, I am {name}.", "qualityScore": 9}) + "\n"
            for question in ASKED
        )
    )
    tmde(data_dir, "traces", "import", traces)
    chosen = [word for choice in TRAINING for word in ("--set", choice)]
    began = time.perf_counter()
    tmde(data_dir, "finetune", "start", "--watch", *chosen)
    sys.stdout.write(f"trained {name} in {time.perf_counter() - began:.0f} s\n")
    return str(json.loads(tmde(data_dir, "lora", "list", "--json"))[0]["id"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> tuple[Path, str, str]:
    """A data directory with two adapters; the second came from another machine's directory, as an archive."""
    here, there = (tmp_path_factory.mktemp("walk") / "data" for _ in NAMES)
    alpha, omega = train(here, NAMES[0]), train(there, NAMES[1])
    archive = there.parent / "omega.tar.gz"
    tmde(there, "lora", "export", omega, "-o", archive)
    assert json.loads(tmde(here, "lora", "import", archive, "--json"))["id"] == omega
    assert contents(here, omega) == contents(there, omega)
    return here, alpha, omega


def contents(data_dir: Path, adapter: str) -> dict[str, bytes]:
    """The files of an adapter; of the manifest what it says."""
    return {file.name: file.read_bytes() for file in (data_dir / "lora-adapters" / adapter).iterdir()}


def test_from_the_command_line(trained, embedded_model, tmp_path) -> None:
    data_dir, alpha, omega = trained

    def asked() -> dict[str | None, str]:
        said = tmde(data_dir, "lora", "ask", QUESTION, "-a", alpha, "-a", omega, "--max-tokens", "12", "--json")
        events = [json.loads(line) for line in said.splitlines()]
        return {event["version"]: event["text"] for event in events if event["type"] == "answer"}

    before = asked()
    assert NAMES[0] in before[alpha]
    assert NAMES[1] in before[omega]
    assert not any(name in before[None] for name in NAMES)

    tmde(data_dir, "lora", "activate", alpha)
    tmde(data_dir, "lora", "activate", omega)
    assert json.loads(tmde(data_dir, "lora", "rollback", "--json"))["id"] == alpha

    kept = contents(data_dir, omega)
    archive = tmp_path / "omega.tar.gz"
    tmde(data_dir, "lora", "export", omega, "-o", archive)
    tmde(data_dir, "lora", "delete", omega, "--yes")
    assert json.loads(tmde(data_dir, "lora", "import", archive, "--json"))["id"] == omega
    assert contents(data_dir, omega) == kept
    tmde(data_dir, "lora", "verify", "--all")
    tmde(data_dir, "lora", "activate", omega)
    assert asked() == before

    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    base = embedded_model.parent / f"{embedded_model.stem}-f32"
    loaded = warm.run([sys.executable, "-c", PEFT, str(base), str(folder)])
    assert loaded.returncode == 0, loaded.stderr[-2000:]


@contextmanager
def served(data_dir: Path) -> Iterator[httpx.Client]:
    """`tmde serve` in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data_dir), "serve", "--no-ui", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().split()[3]
            with httpx.Client(base_url=url, timeout=120) as client:
                yield client
        finally:
            process.terminate()


def test_over_http(trained, tmp_path) -> None:
    data_dir, alpha, omega = trained
    with served(data_dir) as client:

        def done(answer: httpx.Response, status: int = 200) -> Any:
            assert answer.status_code == status, answer.text
            return answer.json()

        def says() -> str:
            """What a debate is answered by whatever is active."""
            config = {"maxRounds": 1, "synthesis": "never", "judge": "none", "maxTokens": 12}
            started = done(client.post("/api/debates", json={"query": QUESTION, "config": config}), 202)
            client.get(started["eventsUrl"])
            return str(done(client.get(f"/api/debates/{started['debateId']}"))["finalAnswer"])

        done(client.post(f"/api/lora/{alpha}/activate"))
        assert NAMES[0] in says()
        done(client.post(f"/api/lora/{omega}/activate"))
        assert NAMES[1] in says()
        assert done(client.post("/api/lora/rollback"))["id"] == alpha
        assert NAMES[0] in says()

        kept = contents(data_dir, omega)
        archive = client.get(f"/api/lora/{omega}/export").content
        done(client.delete(f"/api/lora/{omega}"))
        assert done(client.post("/api/lora/import", files={"file": archive}), 201)["id"] == omega
        assert contents(data_dir, omega) == kept
        gguf = client.get(f"/api/lora/{omega}/export", params={"format": "gguf"}).content
        assert gguf == kept["adapter.gguf"]

        done(client.post(f"/api/lora/{omega}/activate"))
        assert NAMES[1] in says()
        asked = done(
            client.post(
                "/api/lora/ask", json={"question": QUESTION, "adapterIds": [None, alpha, omega], "maxTokens": 12}
            ),
            202,
        )
        stream = client.get(asked["eventsUrl"]).text
        answers = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ") and '"ms"' in line]
        texts = {answer["version"]: answer["text"] for answer in answers}
        assert NAMES[0] in texts[alpha]
        assert NAMES[1] in texts[omega]
        assert not any(name in texts[None] for name in NAMES)

        done(client.post("/api/lora/deactivate"))
        assert not any(name in says() for name in NAMES)
        trail = done(client.get("/api/lora/events", params={"limit": 200}))["items"]
        assert all(event["success"] for event in trail)
        assert [event["operation"] for event in trail[:3]] == ["deactivate", "activate", "import"]
