// Functions that run in the browser only. Python calls them by name: see kit/script.py.
// The script is loaded before the first paint, so that no page flashes in the wrong colour scheme.
"use strict";
(() => {
  // ------------------------------------------------------------------------------ colour scheme
  const media = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("tmde-theme");
    } catch {
      return null;
    }
  };
  // Use the system's scheme if the person has not chosen one.
  const applyTheme = () => {
    document.documentElement.dataset.theme = stored() ?? (media.matches ? "dark" : "light");
  };
  const toggleTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("tmde-theme", next);
    } catch {
      // Private mode: the choice lasts until the next page.
    }
    document.documentElement.dataset.theme = next;
  };
  media.addEventListener("change", applyTheme);
  addEventListener("storage", applyTheme);
  applyTheme();

  // ------------------------------------------------------------------------------- dismissed hints
  const DISMISSED = "tmde-dismissed";
  const dismissed = () => {
    try {
      return (localStorage.getItem(DISMISSED) ?? "").split(" ").filter(Boolean);
    } catch {
      return [];
    }
  };
  // The style sheet hides these hints before the first paint, so nothing moves.
  document.documentElement.dataset.dismissed = dismissed().join(" ");
  const dismissHint = (name, hint) => {
    const names = [...new Set([...dismissed(), name])].join(" ");
    try {
      localStorage.setItem(DISMISSED, names);
    } catch {
      // Private mode: the hint comes back with the next page.
    }
    document.documentElement.dataset.dismissed = names;
    elementOf(hint).hidden = true;
  };

  // ------------------------------------------------------------------------------------ address
  let shown = location.pathname;
  // Changes the address without loading a page. Going back from there loads the previous page.
  const showAddress = (path) => {
    history.pushState({}, "", path);
    shown = location.pathname;
  };
  addEventListener("popstate", () => {
    if (location.pathname !== shown) location.reload();
  });

  // -------------------------------------------------------------------------------------- forms
  const elementOf = (given) => (given instanceof Element ? given : getHtmlElement(given));
  // Triggers the form's listeners as if a person had typed.
  const tellTyped = (field) => field.dispatchEvent(new Event("input", { bubbles: true }));

  const formFields = (form) => Object.fromEntries(new FormData(elementOf(form)));
  // Returns the fields of a submitted form, or only their size in bytes if the form is too large.
  const submittedFields = (event, maxBytes) => {
    event.preventDefault();
    const fields = formFields(event.target);
    const bytes = new Blob(Object.values(fields)).size;
    return bytes > maxBytes ? { too_large: bytes } : fields;
  };
  const submitOnCtrlEnter = (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "Enter") return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  const fillForm = (form, values) => {
    const { elements } = elementOf(form);
    for (const [name, value] of Object.entries(values)) elements[name].value = value;
  };
  const typeIntoForm = (form, values) => {
    fillForm(form, values);
    tellTyped(elementOf(form).elements[Object.keys(values).at(-1)]);
  };
  const emptyForm = (form) => {
    const named = [...elementOf(form).elements].filter((field) => field.name);
    for (const field of named) field.value = "";
    tellTyped(named[0]);
  };
  const fillField = (field, text) => {
    const box = elementOf(field);
    box.value = text;
    box.focus();
  };
  // Shows the part whose `data-kind` is chosen and hides the others.
  const showChosenKind = (choice, around) => {
    for (const part of choice.closest(around).querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== choice.value;
  };

  // --------------------------------------------------------------------------------------- tabs
  // Arrow keys, Home and End choose another tab of the row.
  const moveToTab = (event) => {
    const tabs = [...event.currentTarget.querySelectorAll('[role="tab"]')];
    const at = tabs.indexOf(document.activeElement);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const tab = tabs[(next + tabs.length) % tabs.length];
    tab.focus();
    tab.click();
  };

  // Checks or unchecks every box of the list that belongs to a box for all.
  const checkAll = (all, boxes) => {
    for (const box of all.closest("section, main, div[aria-live]").querySelectorAll(boxes)) box.checked = all.checked;
    return all.checked;
  };

  // -------------------------------------------------------------------------------------- focus
  // A button that is disabled while it works, hidden or redrawn loses the keyboard focus, and a person would have to look
  // for the place again. The focus returns to the button, to the one drawn in its place, or to the part of the page.
  const PARTS = "main, section, article, nav, dialog, form, li, fieldset, [role=tabpanel], [popover]";
  const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]";
  let held = null;
  let around = [];
  const nameOf = (control) => control.dataset.testid ?? control.textContent.trim();
  const isSame = (a, b) =>
    a.tagName === b.tagName && nameOf(a) === nameOf(b) && a.ariaLabel === b.ariaLabel && a.value === b.value;
  const isReachable = (control) => !control.disabled && control.checkVisibility({ visibilityProperty: true });
  const controlsIn = (part) => [...part.querySelectorAll(CONTROLS)];
  const placeToGo = () => {
    const near = around.find((part) => part.isConnected && part.checkVisibility());
    const drawn = controlsIn(near).filter((control) => isSame(control, held));
    if (drawn.length === 1 && drawn[0].checkVisibility()) {
      // The next page of a list may be the last one. Then the button beside is the nearest.
      return isReachable(drawn[0]) ? drawn[0] : controlsIn(drawn[0].parentElement).find(isReachable);
    }
    const part = near.closest(PARTS);
    if (part && part.tabIndex < 0) part.tabIndex = -1;
    return part;
  };
  const keepFocus = () => {
    const lost = document.activeElement === document.body || document.activeElement === null;
    if (!held || !lost) return;
    if (held.isConnected && held.checkVisibility()) {
      if (!held.disabled) held.focus({ preventScroll: true });
      return;
    }
    const place = placeToGo();
    held = null;
    place?.focus({ preventScroll: true });
  };
  let waiting = false;
  // The browser takes the focus away at the next frame only, so this looks a little later.
  const keepFocusSoon = () => {
    if (waiting || !held || (document.activeElement === held && isReachable(held))) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      keepFocus();
    }, 60);
  };
  const forgetFocus = () => (held = null);
  addEventListener("focusin", (event) => {
    if (event.target === document.body || !event.target.matches(CONTROLS)) return;
    held = event.target;
    around = [];
    for (let part = held.parentElement; part; part = part.parentElement) around.push(part);
  });
  addEventListener("pointerdown", forgetFocus, true);
  addEventListener("keydown", (event) => event.key === "Tab" && forgetFocus(), true);
  new MutationObserver(keepFocusSoon).observe(document, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["disabled", "hidden"],
  });

  window.tmde = {
    toggleTheme,
    dismissHint,
    showAddress,
    formFields,
    submittedFields,
    submitOnCtrlEnter,
    fillForm,
    typeIntoForm,
    emptyForm,
    fillField,
    showChosenKind,
    moveToTab,
    checkAll,
  };
})();
