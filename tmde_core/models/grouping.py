"""Groups what runtimes serve and what lies in `data/models` into base models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from tmde_core.errors import TmdeError
from tmde_core.models.facts import ModelFacts, ModelShape, read_facts
from tmde_core.models.known import KnownModel, find_known
from tmde_core.models.names import find_quantization, make_bare, without_endings
from tmde_core.records.models import BaseModel, ModelNotes, ServedForm, TrainableForm
from tmde_core.records.runtimes import ModelInfo
from tmde_core.sdk.model_folders import WEIGHTS_FOLDER, ModelFolder, weights_lack

GENERIC = frozenset({"model", "ggml-model", "weights", "base", "checkpoint", "gguf", "unnamed", ""})
"""File names that say nothing about the model."""

FindHash = Callable[[str], str | None]


class FactsReader:
    """Reads the headers of models, each version of a file once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, int, int, int], ModelFacts] = {}

    def read(self, path: str) -> ModelFacts:
        """Return the facts about a GGUF file or a directory; empty facts if it cannot be read."""
        try:
            found = Path(path)
            state = found.stat()
            key = (path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            if key not in self._read:
                try:
                    self._read[key] = read_facts(found)
                except TmdeError as error:
                    if isinstance(error.__context__, OSError):
                        return ModelFacts()
                    self._read[key] = ModelFacts()  # a damaged file may take seconds to read
            return self._read[key]
        except OSError:
            return ModelFacts()


@dataclass
class _Draft:
    """A base model while its forms are collected."""

    name: str
    notes: ModelNotes | None = None
    folder: ModelFolder | None = None
    infos: list[ModelInfo] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    shape: ModelShape = field(default_factory=ModelShape)
    known: KnownModel | None = None

    def learn(self, names: Iterable[str]) -> None:
        self.names |= {bare for bare in map(make_bare, names) if bare not in GENERIC}


def group(
    infos: Sequence[ModelInfo], folders: Sequence[ModelFolder], facts: FactsReader, find_hash: FindHash
) -> list[BaseModel]:
    """Return the base models of this machine and of the configured servers.

    Two things are forms of one base model if they lie in one folder, if the folder's notes say so, or if their names
    mean the same and their sizes do not contradict.

    Args:
        infos: what the runtimes serve.
        folders: the folders in `data/models`.
        facts: reads headers.
        find_hash: returns the remembered SHA-256 of a path, or None.
    """
    drafts = [_from_folder(folder, facts) for folder in folders]
    for info in sorted(infos, key=lambda one: not one.shipped):
        shape = facts.read(info.path).shape if info.path else ModelShape()
        draft = _find_draft(drafts, info, shape)
        if draft is None:
            draft = _Draft(_make_name(info, {one.name.casefold() for one in drafts}))
            drafts.append(draft)
        draft.infos.append(info)
        draft.learn((draft.name, info.name, *info.aliases))
        draft.known = draft.known or next(filter(None, map(find_known, (draft.name, info.name, *info.aliases))), None)
        if draft.known is not None:
            draft.learn(draft.known.names)
        if info.path and draft.shape == ModelShape():
            draft.shape = shape
    return [_finish(draft, facts, find_hash) for draft in drafts]


def _from_folder(folder: ModelFolder, facts: FactsReader) -> _Draft:
    notes = folder.notes
    draft = _Draft(folder.path.name, notes, folder)
    draft.learn((folder.path.name, notes.name, notes.source, notes.gguf_source, *notes.aliases))
    draft.known = next(filter(None, map(find_known, (notes.source, notes.name, folder.path.name))), None)
    if draft.known is not None:
        draft.learn(draft.known.names)
    form = folder.weights or next(iter(folder.gguf_files), None)
    if form is not None:
        draft.shape = facts.read(str(form)).shape
    return draft


def _find_draft(drafts: Sequence[_Draft], info: ModelInfo, shape: ModelShape) -> _Draft | None:
    if info.path:
        parents = Path(info.path).parents
        for draft in drafts:
            if draft.folder is not None and (
                draft.folder.path in parents or Path(info.path) == draft.folder.path / WEIGHTS_FOLDER
            ):
                return draft
    for draft in drafts:
        servers = draft.notes.servers if draft.notes is not None else ()
        if any((one.runtime, one.model) == (info.runtime, info.name) for one in servers):
            return draft
    known = find_known(info.name)
    wanted = {make_bare(name) for name in (info.name, *info.aliases, *(known.names if known else ()))} - GENERIC
    for draft in drafts:
        if wanted & draft.names and not shape.differs_from(draft.shape):
            return draft
    return None


def _make_name(info: ModelInfo, taken: set[str]) -> str:
    """Return a name for a base model that only a runtime knows."""
    known = find_known(info.name)
    candidates = [known.name] if known else []
    if info.shipped and info.aliases:
        candidates += [alias for alias in info.aliases if "/" not in alias and not find_quantization(alias)]
    if info.path:
        plain = without_endings(info.name)
        # A file called model.gguf is told from others by its folder.
        candidates.append(plain if make_bare(plain) not in GENERIC else Path(info.path).parent.name)
    candidates += [info.name, f"{info.name} ({info.runtime})"]
    return next((one for one in candidates if one and one.casefold() not in taken), candidates[-1])


def _finish(draft: _Draft, facts: FactsReader, find_hash: FindHash) -> BaseModel:
    notes, known = draft.notes or ModelNotes(name=draft.name), draft.known
    served = [_served(info, facts, find_hash) for info in draft.infos]
    there = {(one.runtime, one.model) for one in served}
    # A server that does not answer now still has the model.
    served += [
        ServedForm(runtime=one.runtime, model=one.model)
        for one in notes.servers
        if (one.runtime, one.model) not in there
    ]
    trainable = _trainable(draft, facts, find_hash)
    paths = [path for path in (trainable.path if trainable else None, *(one.path for one in served)) if path]
    found = [facts.read(path) for path in paths]
    why, todo = ("", "") if trainable else _why_not_trainable(draft, known)
    return BaseModel(
        name=draft.name,
        license=notes.license or next((one.license for one in found if one.license), known.license if known else ""),
        parameters=notes.parameters
        or next((one.parameters for one in found if one.parameters), known.parameters if known else None),
        context_length=notes.context_length
        or next((one.context_length for one in found if one.context_length), known.context_length if known else None),
        architecture=next((one.architecture for one in found if one.architecture), ""),
        source=notes.source or (known.source if known else "") or _publisher(draft.infos),
        revision=notes.revision,
        aliases=_aliases(draft, notes),
        served=tuple(served),
        trainable=trainable,
        why_not_trainable=f"{why} {todo}".strip(),
        embedded=any(info.shipped for info in draft.infos),
        folder=str(draft.folder.path) if draft.folder else None,
        size_bytes=_size(draft.folder.path) if draft.folder else 0,
    )


def _served(info: ModelInfo, facts: FactsReader, find_hash: FindHash) -> ServedForm:
    return ServedForm(
        runtime=info.runtime,
        model=info.name,
        path=info.path,
        quantization=(facts.read(info.path).quantization if info.path else "") or find_quantization(info.name),
        size_bytes=info.size_bytes,
        sha256=find_hash(info.path) if info.path else None,
        context_length=info.context_length,
        default=info.default,
        loaded=info.loaded,
    )


def _trainable(draft: _Draft, facts: FactsReader, find_hash: FindHash) -> TrainableForm | None:
    if draft.folder is not None and (weights := draft.folder.weights) is not None:
        return _safetensors(weights, draft.notes, find_hash)
    local = [info for info in draft.infos if info.path and Path(info.path).exists()]
    for info in local:
        if Path(info.path or "").is_dir() and not weights_lack(Path(info.path or "")):
            return _safetensors(Path(info.path or ""), draft.notes, find_hash)
    # The finest quantisation loses least when it is dequantised.
    files = [info for info in local if not Path(info.path or "").is_dir() and facts.read(info.path or "").architecture]
    if not files:
        return None
    finest = max(files, key=lambda info: info.size_bytes or 0)
    return TrainableForm(
        kind="gguf", path=finest.path or "", size_bytes=finest.size_bytes, sha256=find_hash(finest.path or "")
    )


def _safetensors(directory: Path, notes: ModelNotes | None, find_hash: FindHash) -> TrainableForm:
    return TrainableForm(
        kind="safetensors",
        path=str(directory),
        size_bytes=sum(map(_file_size, directory.glob("*.safetensors"))),
        sha256=find_hash(str(directory)),
        revision=notes.revision if notes else "",
    )


def _why_not_trainable(draft: _Draft, known: KnownModel | None) -> tuple[str, str]:
    """Return why a model cannot be trained, and what to do."""
    source = (draft.notes.source if draft.notes else "") or (known.source if known else "")
    wanted = source or "OWNER/NAME"
    server = next((info.runtime for info in draft.infos), None) or next(
        (one.runtime for one in (draft.notes.servers if draft.notes else ())), None
    )
    if draft.folder is not None and (draft.folder.path / WEIGHTS_FOLDER).is_dir():
        lacking = ", ".join(weights_lack(draft.folder.path / WEIGHTS_FOLDER))
        why = f"The weights of {draft.name} are incomplete: they lack {lacking}."
    elif server is None:
        why = f"TMDE has no weights of {draft.name}."
    else:
        why = f"{draft.name} is only served by {server!r}, and training needs its weights on this machine."
    todo = f"Fetch them with: tmde models pull {wanted} --weights"
    if draft.folder is not None and not source:
        todo += f" --name {draft.folder.path.name}"  # else the repository's name makes another base model
    if draft.folder is None and (not source or find_known(source) is None or make_bare(source) not in draft.names):
        todo += f", then say that they belong together: tmde models add {server or 'RUNTIME'}:{draft.name} --name NAME"
    return why, f"{todo}."


def _aliases(draft: _Draft, notes: ModelNotes) -> tuple[str, ...]:
    known = draft.known.names if draft.known else ()
    of_files = (alias for info in draft.infos for alias in (info.name, *info.aliases))
    every = (*notes.aliases, notes.source, notes.gguf_source, *known, *of_files)
    return tuple(dict.fromkeys(alias for alias in every if alias and alias != draft.name))


def _publisher(infos: Sequence[ModelInfo]) -> str:
    return next((alias for info in infos for alias in info.aliases if "/" in alias), "")


def _size(folder: Path) -> int:
    """Return the bytes of the files that TMDE keeps; a symbolic link leads to somebody else's file."""
    if folder.is_symlink():
        return 0
    try:
        return sum(_file_size(file) for file in folder.rglob("*") if not file.is_symlink())
    except OSError:  # another process deletes the folder meanwhile
        return 0


def _file_size(file: Path) -> int:
    """Return the size of a regular file; 0 if it is something else, or was deleted meanwhile."""
    try:
        state = file.stat()
    except OSError:
        return 0
    return state.st_size if S_ISREG(state.st_mode) else 0


def describe_form(model: BaseModel) -> str:
    """Return in which forms a base model is here, such as `served by embedded (Q4_K_M) and ollama; trainable from the weights`."""
    parts = [f"{one.runtime}{f' ({one.quantization})' if one.quantization else ''}" for one in model.served]
    served = f"served by {' and '.join(parts)}" if parts else "not served"
    if model.trainable is None:
        return served
    return f"{served}; trainable from {'the weights' if model.trainable.kind == 'safetensors' else 'the GGUF file'}"
