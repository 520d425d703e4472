"""Ask one model the simple questions and print its answers.

python -m tmde_cpu.serving.quality DATA_DIR [MODEL]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import TmdeError
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.serving.simple_questions import QualityReport, measure_quality


async def _main(data_dir: Path, model: str) -> QualityReport:
    settings = EmbeddedSettings(models=(model,) if Path(model).is_absolute() else ())
    runtime = EmbeddedRuntime(PluginContext(data_dir, settings))
    try:
        return await measure_quality(runtime, Path(model).name)
    finally:
        await runtime.stop()


def main(arguments: list[str]) -> int:
    """Print the report of one model. Return 1 if the model cannot be asked."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python -m tmde_cpu.serving.quality DATA_DIR [MODEL]\n")
        return 2
    try:
        report = asyncio.run(_main(Path(arguments[0]).absolute(), arguments[1] if len(arguments) == 2 else ""))
    except TmdeError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    head = (
        f"{report.model}: {report.right} of {report.asked} right; prompt {report.prompt_tokens_per_second:.0f}, "
        f"generation {report.tokens_per_second:.0f} tokens a second"
    )
    sys.stdout.write("\n".join((head, *report.wrong, "")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
