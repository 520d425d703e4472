"""What axe-core finds on a page, for the tests of the pages."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

GRAVE = ("serious", "critical")
UNFOLD = "document.querySelectorAll('main details').forEach(folded => folded.open = true)"
FOLDED = "document.querySelector('main details') !== null"


def fails(page: Page, within: str | None = None) -> list[str]:
    """What axe-core finds on the page or in the elements of a selector, in both themes, a line for each element."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        for violation in Axe().run(page, within).response["violations"]:
            if violation["impact"] in GRAVE:
                found += [f"{scheme}: {violation['help']}: {node['html'][:200]}" for node in violation["nodes"]]
    return found


def check(page: Page, unfolded: bool = True) -> None:
    """Check the page as it opens, and then what can be unfolded."""
    page.wait_for_load_state("networkidle")
    found = fails(page)
    assert found == [], "\n".join(found)
    if unfolded and page.evaluate(FOLDED):
        page.evaluate(UNFOLD)
        page.wait_for_load_state("networkidle")
        found = fails(page, "main details")
        assert found == [], "\n".join(found)


def check_dialog(page: Page, button: str) -> None:
    """Check the dialog that the button opens, and close it."""
    page.get_by_test_id(button).first.click()
    expect(page.locator("dialog[open]")).to_be_visible()
    check(page, unfolded=False)
    page.keyboard.press("Escape")
