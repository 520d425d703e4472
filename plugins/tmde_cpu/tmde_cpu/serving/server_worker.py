"""Run the model server in a child process: llama.cpp's own HTTP server, inside xllamacpp.

    python -m tmde_cpu.serving.server_worker

The process reads one `ServerJob` as a JSON line from stdin. When stdin closes, the process ends. It answers with one
JSON line on stdout: the address, or the reason of a failure. llama.cpp logs to stderr. The job contains the key. The
arguments and the environment do not, because other users could read them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

import msgspec


class ServerJob(msgspec.Struct):
    """The model to serve, and the options of the server."""

    model: str
    """The path of the GGUF file."""
    key: str
    parent: int
    """The process id of the caller. When the caller ends, this process ends too."""
    adapters: list[str] = []
    """Paths of LoRA adapters in GGUF form. Requests name an adapter by its position in this list."""
    context: int = 4096
    """The number of tokens in each slot."""
    slots: int = 4
    threads: int = 2
    batch: int = 16
    """The number of tokens read in one step. A cancelled request is noticed between steps."""


class ServerReport(msgspec.Struct):
    """The one line on stdout. If `error` is empty, the server listens at `address`."""

    address: str = ""
    error: str = ""


def main() -> None:
    """Read the job, serve the model, and run until stdin closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries belongs in the log, not between the JSON lines
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServerJob)
    _die_with(job.parent)
    threading.Thread(target=_hold_life_line, daemon=True).start()
    try:
        server = _serve(job)
        report = ServerReport(address=server.listening_address)
    except Exception as error:  # the parent turns the reason into a sentence; a traceback would only hide the reason
        report = ServerReport(error=" ".join(str(error).split()) or type(error).__name__)
    answers.write(msgspec.json.encode(report) + b"\n")
    answers.flush()
    if report.error:
        os._exit(1)
    threading.Event().wait()


def _serve(job: ServerJob):  # type: ignore[no-untyped-def]  # xllamacpp has no types
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job.model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [job.key]
    params.ui = False
    params.n_ctx = job.context * job.slots
    params.n_parallel = job.slots
    params.n_batch = params.n_ubatch = job.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job.threads
    # llama.cpp's cache of prompts in RAM does not record which adapter computed them. It once answered a request
    # without an adapter from an adapter's work. The slots' own caches record the adapter and stay on.
    params.cache_ram_mib = 0
    params.lora_adapters = [_adapter(xllamacpp, path) for path in job.adapters]
    params.lora_init_without_apply = True  # a request that names no adapter gets the base model alone
    return xllamacpp.Server(params)


def _adapter(xllamacpp, path: str):  # type: ignore[no-untyped-def]
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path = path
    info.scale = 1.0
    return info


def _hold_life_line() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, in whatever way.

    This works on Linux only; elsewhere, stdin closes.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the request to the kernel
        os._exit(0)


if __name__ == "__main__":
    main()
