// What every page does in the browser alone. Python calls these functions by name: see kit/script.py.
// Loaded before the first paint, so that no page flashes in the other colour scheme.
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
  // Without a choice the system's scheme is followed.
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

  // ------------------------------------------------------------------------------------ address
  let shown = location.pathname;
  // Gives what is shown an address of its own; going back from there loads the page that was before.
  const showAddress = (path) => {
    history.pushState({}, "", path);
    shown = location.pathname;
  };
  addEventListener("popstate", () => {
    if (location.pathname !== shown) location.reload();
  });

  // -------------------------------------------------------------------------------------- forms
  const elementOf = (given) => (given instanceof Element ? given : getHtmlElement(given));
  // As if a person had typed: whoever listens to the form hears of it.
  const tellTyped = (field) => field.dispatchEvent(new Event("input", { bubbles: true }));

  const formFields = (form) => Object.fromEntries(new FormData(elementOf(form)));
  // The fields of a form that is submitted; of a larger one only how many bytes they have.
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
  // Of the parts with `data-kind` beside a choice, only the one of the chosen kind is shown.
  const showChosenKind = (choice, around) => {
    for (const part of choice.closest(around).querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== choice.value;
  };

  window.tmde = {
    toggleTheme,
    showAddress,
    formFields,
    submittedFields,
    submitOnCtrlEnter,
    fillForm,
    typeIntoForm,
    emptyForm,
    fillField,
    showChosenKind,
  };
})();
