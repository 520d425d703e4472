"""The list of all pages. A new page is a module with a `register` function and one line here."""

from __future__ import annotations

from tmde_ui.benchmark import page as benchmark
from tmde_ui.debate import page as debate
from tmde_ui.finetune import page as finetune
from tmde_ui.kit.shell.site import Page
from tmde_ui.models import page as models
from tmde_ui.plugins import page as plugins
from tmde_ui.traces import page as traces
from tmde_ui.versions import page as versions

PAGES = (
    Page("/", "Debate", debate.register),
    Page("/traces", "Traces", traces.register),
    Page("/finetune", "Fine-tuning", finetune.register, tab="Training"),
    Page("/finetune/versions", "Adapter versions", versions.register, under="/finetune"),
    Page("/benchmark", "Benchmark", benchmark.register),
    Page("/models", "Models", models.register),
    Page("/plugins", "Plugins", plugins.register),
)
"""In the order of the navigation."""
