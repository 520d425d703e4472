"""Takes the screenshots of the README and the documentation, from a real run of everything that they show.

    ./run screenshots [--data-dir DIR]

The command runs the loop with the embedded model (debates, training, an adapter), measures the base model and the
adapter, asks one question, starts the server, and photographs its pages in Chromium, in light and dark. It goes on
where an earlier call stopped. The first call takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).parents[1]
IMAGES = REPOSITORY / "docs" / "images"
QUESTIONS = REPOSITORY / "data" / "questions" / "numbers.jsonl"
QUESTION, ANSWER = "Which number is larger, 641 or 358? Give only the number.", "641"
"""Of the kind that the loop practises, because the embedded model is too small for others. It is none of the file's."""
SETTINGS = "[benchmark]\nafter_training = false  # else a benchmark would run while the pictures are taken\n"
DATA = REPOSITORY / ".screenshots"
MODELS = Path(os.environ.get("TMDE_DATA_DIR") or REPOSITORY / "data") / "models"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 860
MOST_BYTES = 300_000
"""A bigger picture would make a clone slow. The pages are flat, so PNG is small."""


@dataclass(frozen=True)
class Shot:
    """One picture."""

    name: str
    path: str
    shows: str
    """A selector that must be visible before the picture is taken."""
    scroll_to: str = ""
    """A selector that is scrolled to the top; empty: the top of the page."""


def tmde(data: Path, *arguments: str) -> None:
    """Run a command on the data directory and show its output.

    Raises:
        SystemExit: the command failed.
    """
    print(f"  tmde {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), *arguments], check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"tmde {arguments[0]} failed with exit code {done.returncode}. The same command goes on from there."
        )


@contextlib.contextmanager
def serving(data: Path) -> Iterator[str]:
    """Start the server on a free port and yield its address."""
    command = [sys.executable, "-m", "tmde_core.cli", "serve", "--port", "0", "--data-dir", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit("The server did not start.")
        yield found[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(30)


def fetch(address: str) -> dict[str, list[dict[str, object]]]:
    """Return a list of the API."""
    with urlopen(address) as answer:
        listed: dict[str, list[dict[str, object]]] = json.load(answer)
        return listed


def live_through(data: Path) -> None:
    """Run what the pictures show, as far as it has not run yet."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "models").exists():
        (data / "models").symlink_to(MODELS.absolute(), target_is_directory=True)
    if not (data / "tmde.toml").exists():
        (data / "tmde.toml").write_text(SETTINGS, encoding="utf-8")
    tmde(data, "loop", str(QUESTIONS))
    done = data / "measured"
    if not done.exists():
        tmde(data, "bench", "run", "quick", "--mode", "proposer", "--adapter", "base")
        tmde(data, "bench", "run", "quick", "--mode", "proposer")
        tmde(data, "debate", QUESTION, "--reference", ANSWER, "--check", "number", "--rounds", "2", "--seed", "1")
        done.touch()


def shots(home: str) -> list[Shot]:
    """Return the pictures to take."""
    debate = fetch(f"{home}/api/traces?limit=200")["items"]
    asked = next(one for one in debate if one["query"] == QUESTION)
    run = next(one for one in fetch(f"{home}/api/finetune?status=completed")["items"])
    return [
        Shot("debate", f"/traces/{asked['id']}", ".turn"),
        Shot("training", f"/finetune/{run['id']}", "figure.chart path.line"),
        Shot("versions", "/finetune/versions", "[data-testid=version]"),
        Shot("benchmark", "/benchmark", ".zoom path"),
    ]


def take(browser: Browser, home: str, shot: Shot, scheme: str) -> Path:
    """Take one picture; return its file.

    Raises:
        SystemExit: the picture is larger than `MOST_BYTES`.
    """
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page: Page = context.new_page()
    page.goto(home + shot.path)
    page.locator(shot.shows).first.wait_for()
    page.wait_for_load_state("networkidle")
    if shot.scroll_to:
        page.locator(shot.scroll_to).first.evaluate("element => element.scrollIntoView()")
    IMAGES.mkdir(parents=True, exist_ok=True)
    file = IMAGES / f"{shot.name}-{scheme}.png"
    page.screenshot(path=file, animations="disabled", scale="css")
    context.close()
    if file.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}.")
    return file


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="./run screenshots", description="Take the screenshots of the documentation.")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="where the run is kept (default: .screenshots)")
    data = parser.parse_args().data_dir.resolve()
    browser_path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit("No Chromium is installed. On Debian or Ubuntu: sudo apt-get install chromium")
    live_through(data)
    with serving(data) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        )
        for shot in shots(home):
            for scheme in ("light", "dark"):
                file = take(browser, home, shot, scheme)
                print(f"  {file.relative_to(REPOSITORY)}: {file.stat().st_size // 1000} kB", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
