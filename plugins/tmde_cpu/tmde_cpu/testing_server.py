"""A stand-in for the program `llama-server`, for tests of what starts such programs.

`write_llama_server` writes an executable file. The program takes llama-server's own flags and refuses others, answers
`--version`, `--help` and `--list-devices` in llama-server's words, and serves the model with the real server of
xllamacpp, on the processor. It plays a graphics card: the memory that is free on it, and how many layers it holds.

The texts are those of llama.cpp: `common/arg.cpp` (help, devices, refusals), `common/build-info.cpp.in` (version),
`tools/server/server-http.cpp` (the port), `ggml/src/ggml-cuda/ggml-cuda.cu` and `src/llama-model.cpp` (full cards).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MIB = 1024**2
CARD = ("NVIDIA GeForce RTX 3090", 24_124)

FLAGS: Mapping[str, tuple[str, str]] = {
    "--help": ("-h,    --help, --usage", ""),
    "--version": ("--version", ""),
    "--list-devices": ("--list-devices", ""),
    "--model": ("-m,    --model FNAME", "model"),
    "--host": ("--host HOST", "host"),
    "--port": ("--port PORT", "port"),
    "--api-key-file": ("--api-key-file FNAME", "key_file"),
    "--ctx-size": ("-c,    --ctx-size N", "context"),
    "--parallel": ("-np,   --parallel N", "slots"),
    "--batch-size": ("-b,    --batch-size N", "batch"),
    "--ubatch-size": ("-ub,   --ubatch-size N", "step"),
    "--threads": ("-t,    --threads N", "threads"),
    "--threads-batch": ("-tb,   --threads-batch N", "threads_batch"),
    "--gpu-layers": ("-ngl,  --gpu-layers, --n-gpu-layers N", "layers"),
    "--device": ("-dev,  --device <dev1,dev2,..>", "device"),
    "--flash-attn": ("-fa,   --flash-attn [on|off|auto]", "flash"),
    "--cache-type-k": ("-ctk,  --cache-type-k TYPE", "keys"),
    "--cache-type-v": ("-ctv,  --cache-type-v TYPE", "values"),
    "--lora": ("--lora FNAME", "lora"),
    "--lora-init-without-apply": ("--lora-init-without-apply", ""),
    "--cache-ram": ("-cram, --cache-ram N", "cache_ram"),
    "--fit": ("-fit,  --fit [on|off]", "fit"),
    "--jinja": ("--jinja, --no-jinja", ""),
    "--chat-template-kwargs": ("--chat-template-kwargs STRING", "kwargs"),
    "--slots": ("--slots, --no-slots", ""),
    "--ui": ("--ui,  --webui, --no-ui, --no-webui", ""),
    "--log-prefix": ("--log-prefix, --no-log-prefix", ""),
    "--log-timestamps": ("--log-timestamps, --no-log-timestamps", ""),
    "--warmup": ("--warmup, --no-warmup", ""),
    "--tensor-split": ("-ts,   --tensor-split N0,N1,N2,...", "split"),
}
"""How the help writes each flag, and the name of its value."""


class LlamaServerFile:
    """The program on the disk, and what it plays."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def play(self, **changes: object) -> None:
        """Change what the program plays from its next start on. See `write_llama_server`."""
        played = {**_played(self.path), **changes}
        self._settings.write_text(json.dumps(played), encoding="utf-8")

    def starts(self) -> list[list[str]]:
        """Return the arguments of every start that served a model or tried to, the oldest first."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    @property
    def _settings(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def _log(self) -> Path:
        return self.path.with_suffix(".starts")


def write_llama_server(
    directory: Path,
    *,
    version: str = "0.6.0 (build 11434, commit 64fbe0f)",
    cards: Mapping[str, int] | None = None,
    lacks: Sequence[str] = (),
    most_layers: int | None = None,
) -> LlamaServerFile:
    """Write the program `llama-server` into the directory.

    Args:
        directory: where the program is written. The directory is created if it is missing.
        version: what `--version` prints after `version: `.
        cards: the free MiB of each card, by its name, such as `{"CUDA0": 20000}`; None: there is no card.
        lacks: flags that this build does not know yet. With `[on|off|auto]`, `--flash-attn` stands alone as in old
            builds.
        most_layers: how many layers the card really holds. More of them fail as on a full card.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "llama-server"
    code = f"""\
        #!{sys.executable}
        import sys
        sys.path[:0] = {[entry for entry in sys.path if entry]!r}
        from tmde_cpu.testing_server import main
        main(sys.argv)
        """
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    path.chmod(0o755)
    program = LlamaServerFile(path)
    program.play(version=version, cards=dict(cards or {}), lacks=list(lacks), most_layers=most_layers)
    return program


def main(argv: Sequence[str]) -> NoReturn:
    """Run the program."""
    path = Path(argv[0])
    played = _played(path)
    values = _parse(argv[1:], played)
    with path.with_suffix(".starts").open("a", encoding="utf-8") as file:
        file.write(json.dumps(list(argv[1:])) + "\n")
    _allocate(values, played)
    _serve(values)


def _played(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    return {}


def _parse(arguments: Sequence[str], played: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"lora": []}
    known = _known(played)
    place = 0
    while place < len(arguments):
        flag = arguments[place].replace("_", "-")
        if flag not in known:
            _fail(f"error: invalid argument: {flag}")
        main_flag, value = known[flag]
        place += 1
        match main_flag:
            case "--help":
                _print_help(played)
            case "--version":
                sys.stderr.write(f"version: {played['version']}\nbuilt with GNU 13.3.0 for Linux x86_64\n")
                sys.exit(0)
            case "--list-devices":
                _print_devices(played)
        if not value:
            values[flag] = True
            continue
        if place == len(arguments):
            _fail(f'error while handling argument "{flag}": expected value for argument')
        if value == "lora":
            values["lora"] += arguments[place].split(",")
        else:
            values[value] = arguments[place]
        place += 1
    return values


def _known(played: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the main spelling and the name of the value, for each spelling of each flag that the build has."""
    lacks, known = set(played["lacks"]), {}
    for flag, (spelling, value) in FLAGS.items():
        if flag in lacks:
            continue
        takes = "" if flag == "--flash-attn" and "[on|off|auto]" in lacks else value
        for word in spelling.replace(",", " ").split():
            if word.startswith("-") and word not in lacks:
                known[word] = (flag, takes)
    return known


def _print_help(played: Mapping[str, Any]) -> NoReturn:
    sys.stdout.write("----- common params -----\n\n")
    for flag, (spelling, _) in FLAGS.items():
        if flag not in played["lacks"]:
            shown = spelling.replace(" [on|off|auto]", "") if "[on|off|auto]" in played["lacks"] else spelling
            sys.stdout.write(f"{shown:<40}explained here; see also --threads\n{'':<40}(env: LLAMA_ARG_NAME)\n")
    sys.exit(0)


def _print_devices(played: Mapping[str, Any]) -> NoReturn:
    what, total = CARD
    for number in range(len(played["cards"])):
        sys.stderr.write(f"  Device {number}: {what}, compute capability 8.6, VMM: yes\n")
    sys.stdout.write("Available devices:\n")
    for name, free in played["cards"].items():
        sys.stdout.write(f"  {name}: {what} ({max(total, free)} MiB, {free} MiB free)\n")
    if not played["cards"]:
        sys.stdout.write("  (none)\n")
    sys.exit(0)


def _allocate(values: Mapping[str, Any], played: Mapping[str, Any]) -> None:
    """Fail as a full card does, if there are more layers than it holds."""
    most = played["most_layers"]
    if not played["cards"] or values.get("device") == "none" or most is None or int(values["layers"]) <= most:
        return
    sys.stderr.write(
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory\n"
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4294967296\n"
        "0.00.170.328 E llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "0.00.170.860 E srv  llama_server: exiting due to model loading error\n"
    )
    sys.exit(1)


def _serve(values: Mapping[str, Any]) -> NoReturn:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = values["model"]
    params.hostnames = [values.get("host", "127.0.0.1")]
    params.port = int(values.get("port", 8080))
    lines = Path(values["key_file"]).read_text(encoding="utf-8").splitlines() if "key_file" in values else []
    params.api_keys = [line for line in lines if line and not line.startswith("#")]
    params.ui = False
    params.n_ctx = int(values["context"])
    params.n_parallel = int(values["slots"])
    params.n_batch, params.n_ubatch = int(values["batch"]), int(values["step"])
    params.cpuparams.n_threads = int(values["threads"])
    params.cpuparams_batch.n_threads = int(values["threads_batch"])
    params.cache_ram_mib = int(values.get("cache_ram", 8192))
    params.lora_adapters = [_adapter(xllamacpp, path) for path in values["lora"]]
    params.lora_init_without_apply = "--lora-init-without-apply" in values
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # llama.cpp has logged the reason
        _fail(f"0.00.170.860 E srv  llama_server: exiting due to model loading error ({error})")
    sys.stderr.write(f"0.00.247.074 I srv  llama_server: listening on {server.listening_address}\n")
    sys.stderr.flush()
    threading.Event().wait()
    os._exit(0)


def _adapter(xllamacpp: Any, path: str) -> Any:
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = path, 1.0
    return info


def _fail(line: str) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    os._exit(1)
