"""Lists base models, adds and removes them, tries them, and tells which adapter belongs to which."""

from __future__ import annotations

import asyncio
import difflib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import msgspec

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, RuntimeTimeoutError, TmdeError
from tmde_core.models.belonging import SAID_KEY, BaseClaim, Belonging, decide, find_base, find_misfit, read_claim
from tmde_core.models.facts import ModelFacts, read_facts
from tmde_core.models.grouping import FactsReader, group
from tmde_core.models.hashes import ModelHashes, is_as_noted
from tmde_core.models.known import find_known
from tmde_core.models.names import make_bare, without_endings
from tmde_core.models.suggestions import suggest
from tmde_core.plugins import create
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatEnd, ChatRequest, Message
from tmde_core.records.lora import Manifest
from tmde_core.records.models import MODEL_FILE, WEIGHTS_FOLDER, BaseModel, ModelNotes, ServerModel
from tmde_core.records.runtimes import ModelInfo
from tmde_core.records.suggestions import Suggestions
from tmde_core.resources import count_cores, read_resources
from tmde_core.runtimes import Runtimes
from tmde_core.sdk.adapters import MANIFEST_FILE
from tmde_core.sdk.model_folders import check_folder_name, find_folder, is_later_part, list_folders, weights_lack
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend
from tmde_core.settings import RoleSettings, Settings
from tmde_core.storage.durable import storage_errors, write_atomic

MODELS_DIR = "models"
REMOVED = ".removed-"
"""A folder whose name begins with this is being deleted."""
ROLES = ("proposer", "skeptic", "synthesizer", "judge")
TEST_QUESTION = "Name three colours. Answer with three words."
TEST_TOKENS = 64
LONGEST_NAME = 300
"""The most characters of a name that are compared: somebody may send megabytes."""
TEST_SECONDS = 300.0
"""Loading a model of several GB from a slow disk takes minutes."""


class TrainingBase(NamedTuple):
    """The base model that a training run starts from."""

    name: str
    """The name of the base model, for the manifest."""
    weights: str
    """The path of the weights. If TMDE has none, the name: a backend may have weights of its own."""
    source: str
    """The repository on a hub; empty: unknown."""
    why_not: str
    """Why TMDE has no weights, and what to do. Empty if it has some."""


class ModelTest(Record):
    """The answer of a model to one short question."""

    runtime: str
    model: str
    question: str
    answer: str
    seconds_to_first_token: float
    """Loading the model included if it was not in memory."""
    tokens: int
    tokens_per_second: float | None
    """Speed of generation after the first token; None: the answer was too short to tell."""
    was_loaded: bool
    """Whether the model was in memory before the question."""


Models = list[BaseModel]
"""An alias, because the class below has a method called `list`."""


class ModelService:
    """Knows the base models of one data directory and of the configured servers."""

    def __init__(self, runtimes: Callable[[], Runtimes], settings: Callable[[], Settings]) -> None:
        """Create the service.

        Args:
            runtimes: returns the model runtimes of this process.
            settings: returns the settings in force, with `auto` replaced by names.
        """
        self._runtimes = runtimes
        self._settings = settings
        self._facts = FactsReader()
        self._decided: dict[tuple[object, ...], Belonging] = {}
        self._misfits: dict[tuple[str, str, str], str | None] = {}
        """(adapter's directory, runtime, model) → why debates are not answered with the adapter."""

    @property
    def directory(self) -> Path:
        """The directory of models."""
        return self._settings().data_path / MODELS_DIR

    # ---------------------------------------------------------------------------------------- reading

    async def list(self, *, quick: bool = False) -> Models:
        """Return all base models, the one that the Proposer uses first. Runtimes that do not respond are left out.

        Args:
            quick: see `Runtimes.models`.
        """
        infos = await self._runtimes().models(quick=quick)
        return await asyncio.to_thread(self._group, infos)

    def _group(self, infos: Sequence[ModelInfo]) -> Models:
        settings = self._settings()
        hashes = ModelHashes(self.directory)
        noted = hashes.list_noted()
        folders = list_folders(self.directory)
        found = group(infos, folders, self._facts, lambda path: noted.get(path) or hashes.find(path))
        by_role = {role: _find_role_model(infos, getattr(settings.roles, role)) for role in ROLES}
        bases = []
        for one in found:
            roles = tuple(role for role, info in by_role.items() if info is not None and find_base([one], info))
            bases.append(msgspec.structs.replace(one, roles=roles))
        return sorted(bases, key=lambda one: ("proposer" not in one.roles, not one.roles, one.name.casefold()))

    async def find(self, name: str) -> BaseModel:
        """Return the base model that a name means: its own, an alias, or the name of one of its forms.

        Raises:
            NotFoundError: there is no such model; the detail names the nearest ones.
        """
        bases = await self.list()
        wanted = name.strip()[:LONGEST_NAME]
        for names in (
            lambda one: (one.name,),
            lambda one: (*one.aliases, *(form.model for form in one.served)),
            lambda one: tuple(f"{form.runtime}:{form.model}" for form in one.served),
        ):
            for one in bases:
                if wanted.casefold() in {known.casefold() for known in names(one)}:
                    return one
        same = [one for one in bases if make_bare(wanted) in {make_bare(known) for known in (one.name, *one.aliases)}]
        if len(same) == 1:
            return same[0]
        near = difflib.get_close_matches(wanted, [one.name for one in bases], n=3, cutoff=0.4)
        told = f" Did you mean {' or '.join(near)}?" if near else ""
        raise NotFoundError(
            f"There is no base model {wanted[:120]!r}.{told} `tmde models list` shows all; `tmde models pull` fetches one."
        )

    async def find_role_base(self, role: str = "proposer") -> BaseModel | None:
        """Return the base model that a role uses now; None if its runtime does not respond."""
        return next((one for one in await self.list() if role in one.roles), None)

    async def find_toy(self) -> BaseModel | None:
        """Return the embedded model if it answers for the Proposer; None if another model does, or it is not known.

        Only the Proposer's runtime is asked.
        """
        role = self._settings().roles.proposer
        try:
            infos = await self._runtimes().made(role.runtime).models()
            served = find_served_model(infos, role.model, role.runtime)
        except TmdeError:
            return None
        if not served.shipped:
            return None
        return find_base(await asyncio.to_thread(self._group, [served]), served)

    async def resolve_training_base(self, name: str) -> TrainingBase:
        """Return what a training run starts from.

        Args:
            name: a base model's name, a path of weights, or an empty text for the Proposer's base model.

        Raises:
            InvalidInputError: the name is empty and the Proposer's model is not known now.
        """
        if name.strip():
            if name.startswith(("/", "~", ".")):
                bases = await self.list()
                base_here = next((one for one in bases if one.trainable and one.trainable.path == name), None)
                return TrainingBase(base_here.name if base_here else without_endings(name), name, "", "")
            try:
                base = await self.find(name)
            except NotFoundError:
                return TrainingBase(name, name, "", "")  # a backend may know it; if not, it says so
        else:
            found = await self.find_role_base()
            if found is None:
                role = self._settings().roles.proposer
                raise InvalidInputError(
                    f"The Proposer's model {role.model or 'by default'!r} is not known now: its runtime {role.runtime!r} "
                    "does not respond, or no longer has it. Start the runtime, or name the base model to train.",
                    field="baseModel",
                )
            base = found
        weights = base.trainable.path if base.trainable else base.name
        return TrainingBase(base.name, weights, base.source, base.why_not_trainable)

    async def find_weights_path(self, name: str) -> str | None:
        """Return the path of a base model's files, the served file first; None if it is not on this machine."""
        try:
            base = await self.find(name)
        except NotFoundError:
            return None
        paths = [form.path for form in base.served if form.path and form.path.endswith(".gguf")]
        return next(iter(paths), base.trainable.path if base.trainable else None)

    async def suggest(self) -> Suggestions:
        """Return which known models fit this machine, for answering and for training. Nothing is fetched."""
        resources = await read_resources(self._settings().data_path)
        backends = self._runtimes().plugins.backends
        for_cards = sorted((one for one in backends if one.uses_card), key=lambda one: -one.preference)
        works = await asyncio.to_thread(lambda: any(map(self._can_train, for_cards)))
        return suggest(
            resources,
            await self.list(),
            cores=count_cores(),
            trains_on_card=bool(for_cards),
            backend_to_install="" if works or not for_cards else for_cards[0].name,
        )

    def _can_train(self, descriptor: BackendDescriptor) -> bool:
        try:
            backend: TrainingBackend = create(descriptor, self._settings())
            return backend.availability().ok
        except Exception:  # a defect in one plugin must not keep the models from being listed
            return False

    # ----------------------------------------------------------------------------------------- trying

    async def find_form(self, name: str | None) -> tuple[str, str]:
        """Return the runtime and the model to ask for a name: `RUNTIME:MODEL`, or a base model.

        Args:
            name: the name; None: the Proposer's model.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the base model is not served by any runtime.
        """
        if name is None:
            role = self._settings().roles.proposer
            return role.runtime, role.model
        base = await self.find(name)
        named = [form for form in base.served if name.strip() in (f"{form.runtime}:{form.model}", form.model)]
        if not (forms := named or base.served):
            raise ConflictError(
                f"No runtime serves {base.name}. Pull a GGUF file of it: tmde models pull {base.source or 'OWNER/NAME'} --gguf."
            )
        return forms[0].runtime, forms[0].model

    async def try_model(self, runtime: str, model: str = "") -> ModelTest:
        """Ask a model one short question and measure it.

        Raises:
            PluginUnavailableError, NotFoundError, WorkerFailedError, InvalidInputError: the model cannot be asked; the
                detail says why.
        """
        infos = await self._runtimes().models()
        before = next((one for one in infos if one.runtime == runtime and _serves(one, model)), None)
        begun, first, text, end = time.monotonic(), None, [], None
        made = await self._runtimes().get(runtime)
        request = ChatRequest(
            messages=(Message(role="user", content=TEST_QUESTION),),
            model=model,
            max_tokens=TEST_TOKENS,
            temperature=0.0,
            thinking=False,
        )
        try:
            async with asyncio.timeout(TEST_SECONDS), aclosing(made.chat(request)) as items:  # type: ignore[type-var]
                async for item in items:
                    if isinstance(item, ChatDelta):
                        if first is None and (item.text or item.thought):
                            first = time.monotonic()
                        text.append(item.text)
                    elif isinstance(item, ChatEnd):
                        end = item
        except TimeoutError:
            raise RuntimeTimeoutError(
                f"The model {model or 'by default'!r} of {runtime!r} did not answer within {TEST_SECONDS:.0f} s."
            ) from None
        done = time.monotonic()
        first = first or done
        tokens = (end.completion_tokens if end else None) or 0
        spent = done - first
        return ModelTest(
            runtime=runtime,
            model=before.name if before else model,
            question=TEST_QUESTION,
            answer="".join(text).strip(),
            seconds_to_first_token=round(first - begun, 3),
            tokens=tokens,
            tokens_per_second=round((tokens - 1) / spent, 1) if tokens > 1 and spent > 0 else None,
            was_loaded=bool(before and before.loaded),
        )

    # --------------------------------------------------------------------------------------- changing

    async def add(self, target: str, name: str | None = None) -> BaseModel:
        """Make a model that is here already a form of a base model. Nothing is copied.

        Args:
            target: the path of a GGUF file or of a directory of safetensors, or `RUNTIME:MODEL` for a model that a
                server has.
            name: the base model; a new one is made if there is none of this name. None: named after the target.

        Raises:
            InvalidInputError: the target is no model.
            NotFoundError: the server has no such model.
            ConflictError: the base model has another form of this kind already, or the two are not one model.
            InsufficientStorageError: the folder cannot be written.
        """
        runtime, colon, model = target.partition(":")
        if path := await asyncio.to_thread(_find_path, target):
            folder = await asyncio.to_thread(self._add_path, path, name)
        elif colon and any(one.name == runtime for one in await self._runtimes().reports()):
            folder = await self._add_server(runtime, model, name)
        else:
            raise InvalidInputError(
                f"{target[:200]!r} is no file, no directory and no RUNTIME:MODEL here. Name a GGUF file, a directory of "
                "safetensors, or a model of a runtime, such as ollama:qwen3:4b.",
                field="target",
            )
        return await self.find(folder)

    def _add_path(self, path: Path, name: str | None) -> str:
        if path.is_dir():
            if lacking := weights_lack(path):
                file = next(iter(sorted(path.glob("*.gguf"))), None)
                todo = f" Add its GGUF file instead: {file}" if file else ""
                raise InvalidInputError(
                    f"The directory {path} is no model to train: it lacks {', '.join(lacking)}.{todo}", field="target"
                )
        elif is_later_part(path.name):
            raise InvalidInputError(f"{path} is a later part of a split model. Name its first part.", field="target")
        facts = read_facts(path)
        folder = self._check_name(name or _folder_name(without_endings(path.name)))
        self._require_same_model(folder, facts, path)
        place = self.directory / folder / (WEIGHTS_FOLDER if path.is_dir() else path.name)
        with storage_errors(self.directory):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink() and place.resolve() == path.resolve():
                pass  # added before
            elif place.exists() or place.is_symlink():
                raise ConflictError(
                    f"The base model {folder} has {place.name} already. Remove it first, or name another one."
                )
            else:
                place.symlink_to(path)
            for part in _later_parts(path):
                if not (place.parent / part.name).is_symlink():
                    (place.parent / part.name).symlink_to(part)
            self._note(folder, lambda notes: notes)
        return folder

    async def _add_server(self, runtime: str, model: str, name: str | None) -> str:
        made = await self._runtimes().get(runtime)
        infos = await made.models()
        found = next((one for one in infos if one.answers_to(model)), None)
        if found is None:
            has = ", ".join(one.name for one in infos[:12]) or "none"
            raise NotFoundError(f"The runtime {runtime!r} has no model called {model[:120]!r}; it has: {has}.")
        known = find_known(model)
        folder = self._check_name(name or (known.name if known else _folder_name(model)))
        server = ServerModel(runtime=runtime, model=found.name)

        def add(notes: ModelNotes) -> ModelNotes:
            return msgspec.structs.replace(notes, servers=tuple(dict.fromkeys((*notes.servers, server))))

        def note() -> None:
            with storage_errors(self.directory):
                (self.directory / folder).mkdir(parents=True, exist_ok=True)
                self._note(folder, add)

        await asyncio.to_thread(note)
        return folder

    def _check_name(self, name: str) -> str:
        """Return the name of the folder of a base model: the one that is there, whatever the case of its letters.

        Raises:
            InvalidInputError: no folder can have this name.
            ConflictError: something else has this name.
        """
        there = find_folder(self.directory, check_folder_name(name))
        if there is not None:
            return there.path.name
        place = self.directory / name
        if place.is_symlink() or (place.exists() and not place.is_dir()) or name.casefold().endswith(".gguf"):
            raise ConflictError(
                f"A file is or could be called {name!r}, so a base model cannot. Give it another name with --name."
            )
        return name

    def _require_same_model(self, name: str, facts: ModelFacts, path: Path) -> None:
        folder = find_folder(self.directory, name)
        if folder is None:
            return
        form = folder.weights or next(iter(folder.gguf_files), None)
        there = self._facts.read(str(form)) if form else ModelFacts()
        if there.shape.differs_from(facts.shape):
            raise ConflictError(
                f"{path} is not the model {name}: they have other sizes ({_sizes(facts)}; {name}: {_sizes(there)}). "
                "Give it another name with --name."
            )

    def _note(self, name: str, change: Callable[[ModelNotes], ModelNotes]) -> None:
        there = find_folder(self.directory, name)
        before = there.notes if there else ModelNotes(name=name, added_at=utc_now())
        if there is not None:
            # Do not vouch anew for a file that was replaced.
            kept = {path: one for path, one in before.files.items() if is_as_noted(there.path, path, one)}
            before = msgspec.structs.replace(before, files=kept)
        write_atomic(self.directory / name / MODEL_FILE, msgspec.json.format(to_json(change(before)), indent=2) + b"\n")

    async def remove(self, name: str) -> int:
        """Delete a base model's folder and the files in it. Files that were only added are not deleted.

        Returns:
            The bytes that were freed.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: a role uses it, TMDE keeps no files of it, or the name is that of a form or an alias.
        """
        found = await self.find(name)
        if found.name.casefold() != name.strip().casefold():
            # A removal that is sent twice must not reach another model, whose form has a similar name.
            raise ConflictError(f"{name[:120]!r} is another name of {found.name}. To delete {found.name}, name it so.")
        base = self.require_removable(found)
        folder = Path(base.folder or "")
        freed = base.size_bytes

        def delete() -> None:
            with storage_errors(self.directory):
                for left in self.directory.glob(f"{REMOVED}*"):  # a removal was killed
                    _delete(left)
                doomed = folder.with_name(f"{REMOVED}{folder.name}")
                try:
                    folder.rename(doomed)  # at once, so that a crash leaves no half model
                except FileNotFoundError:
                    raise NotFoundError(f"The base model {base.name} has just been removed.") from None
                _delete(doomed)

        await asyncio.to_thread(delete)
        return freed

    def require_removable(self, base: BaseModel) -> BaseModel:
        """Return a base model that can be removed.

        Raises:
            ConflictError: a role uses it, or TMDE keeps no files of it.
        """
        if base.folder is None:
            what = "comes with TMDE" if base.embedded else "was not pulled or added"
            raise ConflictError(f"The base model {base.name} {what}, so TMDE has nothing to delete.")
        folder = Path(base.folder)
        used = [role for role in base.roles if self._uses(role, folder)]
        if used:
            raise ConflictError(
                f"The base model {base.name} answers for: {', '.join(used)}. Choose another model for them first.",
                roles=used,
            )
        return base

    def _uses(self, role: str, folder: Path) -> bool:
        """Return whether a role's model lies in the folder."""
        wanted: RoleSettings = getattr(self._settings().roles, role)
        there = find_folder(self.directory, folder.name)
        names = {file.name for file in there.gguf_files} if there else set()
        return wanted.model in names | {folder.name} or not wanted.model

    # -------------------------------------------------------------------------------------- belonging

    async def explain_belonging(self, directory: Path, manifest: Manifest, served: ModelInfo) -> Belonging:
        """Return whether an adapter belongs to a served model, and why.

        Args:
            directory: the adapter's directory.
            manifest: its manifest.
            served: the model that would serve it.
        """
        said = manifest.lineage.get(SAID_KEY)
        claim = read_claim(
            directory, manifest.base_model, manifest.base_model_sha256, said if isinstance(said, str) else ""
        )
        # `tmde models add` in another process may change what belongs together.
        notes = await asyncio.to_thread(self._notes_version)
        # Another file under the same name may have the same size.
        version = await asyncio.to_thread(_version, served.path) if served.path else served.size_bytes
        key = (str(directory), claim, served.runtime, served.name, served.path, version, notes)
        if key not in self._decided:
            bases = await self.list()
            self._decided[key] = await asyncio.to_thread(self._decide, claim, served, bases, directory)
        return self._decided[key]

    def _notes_version(self) -> tuple[tuple[str, int], ...]:
        return tuple((file, _version(file)[0]) for file in map(str, sorted(self.directory.glob(f"*/{MODEL_FILE}"))))

    def _decide(self, claim: BaseClaim, served: ModelInfo, bases: Models, directory: Path) -> Belonging:
        hashes = ModelHashes(self.directory)
        noted = hashes.list_noted()
        sha256 = None
        if claim.sha256 and served.path:
            sha256 = noted.get(served.path) or hashes.compute(served.path)
        return decide(claim, served, sha256, bases, noted, self._facts, directory)

    async def hash_weights(self, served: ModelInfo) -> str | None:
        """Return the SHA-256 of a served file, hex; None if it is not one file on this machine."""
        if served.path is None:
            return None
        return await asyncio.to_thread(ModelHashes(self.directory).compute, served.path)

    async def require_same_base(self, directory: Path, manifest: Manifest, served: ModelInfo) -> Belonging:
        """Check that an adapter belongs to a served model, and return why.

        Raises:
            ConflictError: it belongs to another model; the message names both. The context has `adapterBase`,
                `servedBase`, and `sizesFit`: whether a person may say that both are the same.
        """
        found = await self.explain_belonging(directory, manifest, served)
        if found.same:
            return found
        todo = "Choose that base model for the Proposer, or train an adapter for this one."
        sizes_fit = await asyncio.to_thread(find_misfit, directory, served) is None
        if sizes_fit:
            todo += f" If you know that they are the same model, say so: tmde lora activate {manifest.id} --base NAME."
        raise ConflictError(
            f"The adapter {manifest.id} was trained on {manifest.base_model!r}, but the Proposer's model is {served.name!r}. "
            f"{found.why} {todo}",
            adapterBase=manifest.base_model,
            servedBase=served.name,
            sizesFit=sizes_fit,
        )

    async def require_served_base(self, adapter: AdapterRef, runtime: str, model: str) -> None:
        """Check that an adapter belongs to a model, named as in the settings of a role.

        Raises:
            ConflictError: it belongs to another model.
            NotFoundError: the runtime has no such model.
        """
        directory = Path(adapter.directory)
        manifest = await asyncio.to_thread(_read_manifest, directory)
        if manifest is None:
            return
        served = find_served_model(await self._runtimes().made(runtime).models(), model, runtime)
        found = await self.explain_belonging(directory, manifest, served)
        self._misfits[adapter.directory, runtime, model] = (
            None
            if found.same
            else f"It was trained on {manifest.base_model}, and the Proposer's model is {served.name}, so the base model "
            f"answers. {found.why}"
        )
        await self.require_same_base(directory, manifest, served)

    def find_misfit(self, adapter: AdapterRef, runtime: str, model: str) -> str | None:
        """Return why an adapter does not belong to a role's model; None if it does, or if it was not examined yet.

        `require_served_base` examines it.
        """
        return self._misfits.get((adapter.directory, runtime, model))


def find_served_model(models: Sequence[ModelInfo], name: str, runtime: str) -> ModelInfo:
    """Return the model called `name`; an empty name is the runtime's default model.

    Args:
        models: the models that the runtime serves.
        name: the model's name in the settings.
        runtime: the runtime's name, for the error.

    Raises:
        NotFoundError: the runtime has no such model.
    """
    for model in models:
        if model.name == name if name else model.default:
            return model
    if named := next((model for model in models if name and model.answers_to(name)), None):
        return named
    if not name and models:
        return models[0]
    known = ", ".join(model.name for model in models) or "none"
    raise NotFoundError(f"The runtime {runtime!r} serves no model called {name!r}; it has: {known}.")


def _read_manifest(directory: Path) -> Manifest | None:
    try:
        return from_json((directory / MANIFEST_FILE).read_bytes(), Manifest)
    except (OSError, TmdeError):
        return None


def _version(path: str) -> tuple[int, int, int]:
    """Return what changes if the content of a file is replaced. The time of its last change cannot be set back."""
    try:
        state = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (state.st_mtime_ns, state.st_ctime_ns, state.st_size)


def _find_path(target: str) -> Path | None:
    """Return the absolute path that a person means; None if nothing can be there."""
    try:
        path = Path(target).expanduser()
        return path.absolute() if target.strip() and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user behind the tilde, a zero byte
        return None


def _delete(folder: Path) -> None:
    """Delete a folder, or only the link if somebody put a link in the folder's place."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _serves(info: ModelInfo, model: str) -> bool:
    return info.answers_to(model) if model else info.default


def _find_role_model(infos: Sequence[ModelInfo], role: RoleSettings) -> ModelInfo | None:
    try:
        return find_served_model([one for one in infos if one.runtime == role.runtime], role.model, role.runtime)
    except NotFoundError:
        return None


def _folder_name(text: str) -> str:
    """Return a name for a folder, made from a model's name: other characters become dashes."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "-" for one in text)
    return plain.strip("-._")[:96] or "model"


def _later_parts(path: Path) -> list[Path]:
    """Return the other parts of a split GGUF file."""
    if path.is_dir() or "-00001-of-" not in path.name:
        return []
    return [one for one in path.parent.glob(path.name.replace("-00001-of-", "-?????-of-")) if is_later_part(one.name)]


def _sizes(facts: ModelFacts) -> str:
    shape = facts.shape
    return f"{shape.blocks or '?'} layers of width {shape.width or '?'}"
