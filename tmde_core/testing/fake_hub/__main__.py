"""Start the played hub by hand: `python -m tmde_core.testing.fake_hub FOLDER --port 8902 --fault break-once=100000`."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import uvicorn

from tmde_core.testing.fake_hub import FAULTS, FakeHub


def main(arguments: list[str] | None = None) -> None:
    """Serve the folder that the arguments name, until it is interrupted."""
    options = _parser().parse_args(arguments)
    try:
        hub = FakeHub(options.folder, *options.fault)
    except ValueError as error:
        raise SystemExit(f"{error}. Run with --help for the names.") from None
    uvicorn.run(hub, host="127.0.0.1", port=options.port, log_level="info", lifespan="off")


def _parser() -> argparse.ArgumentParser:
    lines = ["Use it with HF_ENDPOINT=http://127.0.0.1:PORT. Faults:"]
    for name, said in FAULTS.items():
        lines += textwrap.wrap(said, 100, initial_indent=f"  {name:16} ", subsequent_indent=" " * 19)
    parser = argparse.ArgumentParser(
        prog="python -m tmde_core.testing.fake_hub",
        description="Starts a played hub of models on loopback.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the repositories, FOLDER/owner/name/files")
    parser.add_argument("--port", type=int, default=8902, help="the port (default: %(default)s)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[=N]", help="what it does wrong; may be repeated"
    )
    return parser


if __name__ == "__main__":
    main()
