"""The child process that is the model server: llama.cpp's own HTTP server, inside xllamacpp.

    python -m tmde_cpu.serving.server_worker

One `ServerJob` comes as a JSON line on stdin, which then stays open as a life-line: when it closes, this process ends.
One JSON line on stdout answers, with the address or with the reason why there is none. llama.cpp logs to stderr.
The key comes in the job, never in the arguments or the environment, where other users could read it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

import msgspec


class ServerJob(msgspec.Struct):
    """What to serve, and how."""

    model: str
    """Path of the GGUF."""
    key: str
    parent: int
    """Process id of the one who asks; when that ends, so does this."""
    adapters: list[str] = []
    """Paths of LoRA adapters in GGUF form; requests name them by their place in this list."""
    context: int = 4096
    """Tokens in each slot."""
    slots: int = 4
    threads: int = 2
    batch: int = 16
    """Tokens read in one step. A cancelled request is noticed between steps."""


class ServerReport(msgspec.Struct):
    """The one line on stdout. `error` empty: it listens at `address`."""

    address: str = ""
    error: str = ""


def main() -> None:
    """Read the job, serve it, and stay until the life-line is cut."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints belongs to the log, not between our lines
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServerJob)
    _die_with(job.parent)
    threading.Thread(target=_hold_life_line, daemon=True).start()
    try:
        server = _serve(job)
        report = ServerReport(address=server.listening_address)
    except Exception as error:  # the parent turns the reason into a sentence; a traceback would only hide it
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
    # llama.cpp's cache of prompts in RAM does not know which adapter computed them, and was seen to answer a request
    # without an adapter from the work of one. The slots' own caches, which know, remain.
    params.cache_ram_mib = 0
    params.lora_adapters = [_adapter(xllamacpp, path) for path in job.adapters]
    params.lora_init_without_apply = True  # who names no adapter gets the bare model
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
    """Ask the kernel to kill this process when its parent dies, however it dies (Linux; elsewhere the life-line must do)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


if __name__ == "__main__":
    main()
