"""The list of base models with their forms, and what can be done with each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlencode

from tmde_core.records.debate import ChosenModel
from tmde_core.records.models import BaseModel, ServedForm
from tmde_core.records.pulls import PullRequest
from tmde_core.services import Services
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.base_models import ROLES, describe_form, describe_trainable, read_form, write_form
from tmde_ui.kit.elements import Modal, Tag, button, chip, facts, link
from tmde_ui.kit.forms import on_press
from tmde_ui.kit.words import format_bytes, plain
from tmde_ui.models.trying import Trial
from tmde_ui.models.words import describe_base, describe_served, name_roles

Get = Callable[[PullRequest], object]
Use = Callable[[Mapping[str, ChosenModel]], Awaitable[object]]


class BaseList:
    """The rows of all base models.

    Args:
        services: try and remove models.
        use: lets models answer for roles.
        changed: called after a model was removed.
        get: shows what a pull would fetch.
        dialogs: the element that owns the dialogs. It stays when the rows are drawn again.
    """

    def __init__(
        self, services: Services, use: Use, changed: Callable[[], Awaitable[object]], get: Get, dialogs: Tag
    ) -> None:
        self._services = services
        self._use = use
        self._changed = changed
        self._get = get
        self._dialogs = dialogs

    def draw(self, bases: Sequence[BaseModel]) -> None:
        """Draw the rows into the open element."""
        if not bases:
            with Tag("div", classes="card empty"):
                Tag("h3", "No model is here")
                Tag("p", "Get a model below, or start a model server. Its models appear here by themselves.")
            return
        with Tag("ul", classes="rows"):
            for base in bases:
                with Tag("li"), Tag("article", classes="model", aria_label=base.name, data_testid="base-model"):
                    self._row(base)

    def _row(self, base: BaseModel) -> None:
        with Tag("div", classes="line spread"):
            with Tag("div", classes="line grow"):
                Tag("h3", base.name, "model-name")
                if base.roles:
                    chip(f"answers for {name_roles(base.roles)}", "accent")
                if base.embedded:
                    chip("toy", "minor", title="A small model that comes with TMDE, so that everything works at once")
            self._actions(base)
        Tag("p", describe_base(base), "muted small")
        self._forms(base)
        if base.trainable is not None:
            Tag("p", f"Can be trained from {describe_trainable(base)}.", "small")
        else:
            Tag("p", f"Cannot be trained. {plain(base.why_not_trainable)}", "small", data_testid="why-not-trainable")
        with Tag("details", data_testid="model-details"):
            Tag("summary", "Details")
            _details(base)

    def _actions(self, base: BaseModel) -> None:
        with Tag("div", classes="line actions"):
            if base.served:
                use = button("Use …", test="use", aria_label=f"Use {base.name} …", aria_haspopup="dialog")
                use.on("click", lambda: self._ask_roles(base), args=[])
            if base.trainable is None and base.source:
                weights = button("Get weights …", test="get-weights", aria_label=f"Get the weights of {base.name} …")
                weights.put(aria_haspopup="dialog").on("click", lambda: self._get(_weights_of(base)), args=[])
            if base.trainable is not None:
                href = f"/finetune?{urlencode({'base': base.name})}"
                link("Train", href, "button", aria_label=f"Train {base.name}", data_testid="train")
            if base.folder is not None:
                remove = button("Remove …", "quiet", test="remove", aria_label=f"Remove {base.name} …")
                remove.put(aria_haspopup="dialog").on("click", lambda: self._ask_removal(base), args=[])

    def _forms(self, base: BaseModel) -> None:
        if not base.served:
            Tag("p", "No runtime serves it, so it cannot answer.", "small muted")
            return
        with Tag("ul", classes="forms"):
            for form in base.served:
                with Tag("li", data_testid="form"):
                    trial = Trial(self._services, _fixed(form), f"{base.name} on {form.runtime}")
                    with Tag("div", classes="form-line"):
                        with Tag("div", classes="line grow"):
                            Tag("strong", form.runtime)
                            Tag("span", form.model, "mono")
                            Tag("span", describe_served(form), "muted tabular")
                        trial.draw_button()
                    trial.draw_result()

    # -------------------------------------------------------------------------------------- dialogs

    def _ask_roles(self, base: BaseModel) -> None:
        with self._dialogs:
            dialog = Modal(f"Use {base.name}", test="use-dialog")
        dialog.on("close", dialog.delete, args=[])
        with dialog.body, Tag("form", classes="stack") as form:
            if len(base.served) > 1:
                with Tag("div", classes="field"):
                    Tag("label", "Served by", for_="use-form")
                    with Tag("select", classes="input", id="use-form", name="form"):
                        for one in base.served:
                            Tag(
                                "option",
                                f"{describe_form(one)} — {one.model}",
                                value=write_form(one.runtime, one.model),
                            )
            with Tag("fieldset", classes="checks"):
                Tag("legend", "It answers for", "label small muted")
                for role, name in ROLES.items():
                    with Tag("label", classes="check"):
                        Tag("input", type="checkbox", name=role, value="yes", checked=True)
                        Tag("span", name)
            Tag("p", "The choice takes effect with the next debate.", "muted small")
            with Tag("div", classes="line"):
                go = button("Use it", "primary", test="confirm-use")
        form.on("submit", js_handler="(event) => event.preventDefault()")

        async def chosen(fields: dict[str, str]) -> None:
            wanted = read_form(fields.get("form", "")) or _chosen(base.served[0])
            roles = {role: wanted for role in ROLES if role in fields}
            dialog.close()
            if roles:
                await self._use(roles)

        on_press(go, form, chosen)
        dialog.open()

    def _ask_removal(self, base: BaseModel) -> None:
        size = f"{format_bytes(base.size_bytes)} are deleted. " if base.size_bytes else ""
        ask_once(
            self._dialogs,
            f"Remove {base.name}?",
            f"{size}Files that were only added stay where they are.",
            yes="Remove",
            no="Keep",
            doing="Removing …",
            deed=lambda: self._services.models.remove(base.name),
            then=self._changed,
            test="remove",
        )


def _weights_of(base: BaseModel) -> PullRequest:
    # A model without a folder has a name of a server, which may be no name of a folder.
    return PullRequest(repository=base.source, form="weights", name=base.name if base.folder else "")


def _fixed(form: ServedForm) -> Callable[[], tuple[str, str]]:
    return lambda: (form.runtime, form.model)


def _chosen(form: ServedForm) -> ChosenModel:
    return ChosenModel(runtime=form.runtime, model=form.model)


def _details(base: BaseModel) -> None:
    form = base.trainable
    facts(
        (
            ("Also called", ", ".join(base.aliases)),
            ("Architecture", base.architecture),
            ("From", f"{base.source} at {base.revision[:12]}" if base.revision else base.source),
            ("Folder", f"{base.folder} ({format_bytes(base.size_bytes)})" if base.folder else ""),
            *((f"Served by {one.runtime}", _tell_form(one.model, one.path, one.sha256, one.context_length)) for one in base.served),
            ("Trained from", _tell_form(form.kind, form.path, form.sha256, None) if form else ""),
        )
    )  # fmt: skip


def _tell_form(name: str, path: str | None, sha256: str | None, context: int | None) -> str:
    known = (
        name,
        path or "on a server",
        f"{context:,} tokens as it is served now" if context else "",
        f"SHA-256 {sha256}" if sha256 else "SHA-256 not computed" if path else "",
    )
    return " · ".join(filter(None, known))
