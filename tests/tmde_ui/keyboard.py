"""Walks a page with the Tab key, for the tests of the pages: what is reached, and whether the focus can be seen."""

from __future__ import annotations

from playwright.sync_api import Page, expect

MOST_STOPS = 400
UNFOLD = "document.querySelectorAll('main details').forEach(folded => folded.open = true)"

WALK = r"""() => {
  const NATIVE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0'], [role=tab], audio, video";
  const reached = new WeakSet(), names = new Set(), groups = new Set();
  let first = null, last = null;
  const name = (e) => [e.tagName.toLowerCase(), e.dataset.testid ?? e.id, e.ariaLabel ?? "", (e.innerText || e.value || "").trim().slice(0, 40), e.getAttribute("href") ?? ""].join(" ").trim();
  // One radio button of a group, and one tab of a row, is reached by Tab; arrow keys reach the others.
  const group = (e) => e.type === "radio" ? `radio ${e.name}` : e.role === "tab" ? `tabs ${e.parentElement.ariaLabel}` : null;
  const look = (e) => {
    const told = [];
    for (let at = e, level = 0; at && level < 4; at = at.parentElement, level++) {
      const style = getComputedStyle(at);
      told.push(style.outlineStyle, style.outlineWidth, style.outlineColor, style.boxShadow, style.borderColor, style.backgroundColor);
    }
    return told.join();
  };
  const ringOf = (e) => [e, e.closest("label")].find((at) => {
    if (!at) return false;
    const style = getComputedStyle(at);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && style.outlineColor !== "rgba(0, 0, 0, 0)";
  });
  const shown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: false });
  const cutOff = (e) => {
    const style = getComputedStyle(e);
    const more = parseFloat(style.outlineOffset) + parseFloat(style.outlineWidth) - 1;
    const box = e.getBoundingClientRect();
    for (let at = e.parentElement; at && at !== document.documentElement && at !== document.body; at = at.parentElement) {
      const around = getComputedStyle(at);
      if (around.overflowX === "visible" && around.overflowY === "visible") continue;
      const edge = at.getBoundingClientRect();
      const sides = [["left", edge.left - (box.left - more)], ["right", box.right + more - edge.right],
                     ["top", edge.top - (box.top - more)], ["bottom", box.bottom + more - edge.bottom]];
      const cut = sides.filter(([, by]) => by > 0.5).map(([side, by]) => `${side} by ${by.toFixed(1)}`);
      if (cut.length) return `${cut.join(", ")} in ${at.tagName.toLowerCase()}.${at.className}`;
    }
    return "";
  };
  const covered = (e, moved = false) => {
    const boxes = [...((e.closest("label") ?? e).getClientRects())].filter((box) => box.width && box.height);
    if (!boxes.length) return "it has no size";
    const box = boxes[0];
    const [x, y] = [box.left + box.width / 2, box.top + Math.min(box.height / 2, 20)];
    const hit = document.elementFromPoint(x, y);
    if (hit === null && !moved) {
      // Something above has grown since the browser scrolled here.
      e.scrollIntoView({ block: "nearest" });
      return covered(e, true);
    }
    if (hit === null) return `it lies outside the window at ${Math.round(x)}, ${Math.round(y)}`;
    const mine = hit === e || e.contains(hit) || hit.contains(e) || hit.closest("label")?.control === e;
    return mine ? "" : `${hit.tagName.toLowerCase()}.${hit.className} covers it`;
  };
  const root = () => document.querySelector("dialog[open]") ?? document;
  window.walk = {
    begin() {
      first = last = null;
    },
    // Looks at what has the focus. Returns null if nothing has.
    step() {
      const e = document.activeElement;
      if (!e || e === document.body) return null;
      const known = reached.has(e), faults = [];
      // A field for a date has several stops of its own.
      const around = e === first && e !== last;
      first ??= e;
      last = e;
      reached.add(e);
      names.add(name(e));
      if (group(e)) groups.add(group(e));
      if (known) return { around, faults };
      const hidden = covered(e);
      if (hidden) faults.push(`${name(e)}: ${hidden}`);
      const ring = ringOf(e);
      if (ring) {
        const cut = cutOff(ring);
        if (cut) faults.push(`${name(e)}: its ring is cut off at the ${cut}`);
      } else {
        const focused = look(e);
        e.blur();
        const same = look(e) === focused;
        e.focus({ preventScroll: true });
        if (same) faults.push(`${name(e)}: nothing shows that it has the focus`);
      }
      return { around, faults };
    },
    // What a person with a pointer can operate and the walk has not reached.
    missed() {
      const left = [...root().querySelectorAll(NATIVE)].filter((e) =>
        !e.disabled && shown(e) && !e.closest("[inert], [aria-hidden=true]") && !reached.has(e) && !names.has(name(e)) && !groups.has(group(e)));
      const clicked = [...root().querySelectorAll("*")].filter((e) => {
        const key = Object.getOwnPropertySymbols(e).find((one) => one.description === "_vei");
        return key && (e[key].onClick || e[key].onPointerdown) && !e.closest(NATIVE);
      });
      return [...left.map((e) => `${name(e)}: Tab does not reach it`), ...clicked.map((e) => `${name(e)}: only a pointer can press it`)];
    },
  };
}"""


def walk(page: Page) -> list[str]:
    """Press Tab through the whole page or the open dialog; return what is wrong, a line for each element."""
    page.evaluate(WALK)
    faults = _once_around(page)
    # What has arrived behind the walk, such as an answer that was unfolded, is reached in a second round.
    if page.evaluate("walk.missed()"):
        faults += _once_around(page)
    missed: list[str] = page.evaluate("walk.missed()")
    return [*faults, *missed]


def _once_around(page: Page) -> list[str]:
    page.evaluate("walk.begin()")
    faults: list[str] = []
    nowhere = 0
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        stop = page.evaluate("walk.step()")
        if stop is None:
            nowhere += 1
        else:
            faults += stop["faults"]
        if nowhere > 1 or (stop is not None and stop["around"]):
            return faults
    return [*faults, f"Tab does not come around within {MOST_STOPS} stops"]


def check(page: Page) -> None:
    """Check the page as it opens, and with everything unfolded."""
    page.wait_for_load_state("networkidle")
    found = walk(page)
    assert found == [], "\n".join(found)
    page.evaluate(UNFOLD)
    page.wait_for_load_state("networkidle")
    found = walk(page)
    assert found == [], "\n".join(found)


def check_dialog(page: Page, opener: str) -> None:
    """Open a dialog by keyboard, walk through it, and close it: the focus stays inside, then returns."""
    button = page.get_by_test_id(opener).first
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    expect(dialog).to_be_visible()
    page.wait_for_load_state("networkidle")
    found = walk(page)
    assert found == [], "\n".join(found)
    for key in (*["Tab"] * 3, *["Shift+Tab"] * 6):
        page.keyboard.press(key)
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
