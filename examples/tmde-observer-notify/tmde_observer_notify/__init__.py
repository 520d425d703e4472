"""An observer that writes every event as a line to the file `events-seen.jsonl` in the data directory."""

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.events import Event
from tmde_core.sdk.records import to_json

FILE = "events-seen.jsonl"


@hookimpl
def tmde_event(event: Event, context: PluginContext[PluginSettings]) -> None:
    line = to_json({"event": type(event).__name__, "facts": event})
    with (context.data_dir / FILE).open("ab") as file:
        file.write(line + b"\n")
