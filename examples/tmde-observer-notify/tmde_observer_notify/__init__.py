"""An observer that writes every event as a line to the file `events-seen.jsonl`."""

import os
from pathlib import Path

from tmde_core.sdk import hookimpl
from tmde_core.sdk.events import Event
from tmde_core.sdk.records import to_json

FILE = "events-seen.jsonl"


@hookimpl
def tmde_event(event: Event) -> None:
    line = to_json({"event": type(event).__name__, "facts": event})
    data_dir = Path(os.environ.get("TMDE_DATA_DIR") or "~/.local/share/tmde").expanduser()
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / FILE).open("ab") as file:
        file.write(line + b"\n")
