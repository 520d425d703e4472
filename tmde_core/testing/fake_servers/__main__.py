"""Start a fake server by hand: `python -m tmde_core.testing.fake_servers thinking:tags --port 8901`."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import uvicorn

from tmde_core.testing.fake_servers import (
    DIALECTS,
    ODDITIES,
    FakeLlamaServer,
    FakeOllama,
    FakeServer,
    FakeVllm,
    OddServer,
    ThinkingServer,
)


def main(arguments: list[str] | None = None) -> None:
    """Serve the server that the arguments name, until it is interrupted."""
    options = _parser().parse_args(arguments)
    try:
        server = make(options.server, obeys=not options.ignores, refuses=options.refuses, seconds=options.seconds)
    except ValueError as error:
        raise SystemExit(f"{error}. Run with --help for the names.") from None
    uvicorn.run(server, host="127.0.0.1", port=options.port, log_level="info", lifespan="off")


def make(name: str, *, obeys: bool = True, refuses: bool = False, seconds: float = 0.0) -> FakeServer:
    """Return the server called `name`.

    Raises:
        ValueError: there is no such server.
    """
    kind, _, names = name.partition(":")
    match kind:
        case "vllm":
            return FakeVllm(resolver=Path(names) if names else None)
        case "llama-server":
            return FakeLlamaServer(*filter(None, names.split(",")))
        case "ollama":
            return FakeOllama(names or "0.12.11")
        case "odd":
            return OddServer(*filter(None, names.split(",")))
        case "thinking":
            return ThinkingServer(names or "tags", obeys=obeys, refuses=refuses, seconds=seconds)
    raise ValueError(f"unknown server {name!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tmde_core.testing.fake_servers",
        description="Starts a fake model server on loopback.",
        epilog=_names(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "server",
        help="vllm[:RESOLVER'S DIRECTORY], llama-server[:ADAPTER,…], ollama[:VERSION], thinking:DIALECT, or odd:NAME[,NAME…]",
    )
    parser.add_argument("--port", type=int, default=8901, help="the port (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.03, help="thinking: pause between tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--ignores", action="store_true", help="thinking: the model thinks even when it is asked not to"
    )
    parser.add_argument("--refuses", action="store_true", help="thinking: the server refuses the switches")
    return parser


def _names() -> str:
    lines = ["Dialects of thinking (Ollama's API is served beside each):"]
    lines += [f"  {name:18} {said}" for name, said in DIALECTS.items()]
    lines += ["", "Oddities:"]
    for name, said in ODDITIES.items():
        lines += textwrap.wrap(said, 100, initial_indent=f"  {name:18} ", subsequent_indent=" " * 21)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
