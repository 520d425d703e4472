"""Find the available models: files in the models directory, and models that the settings name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tmde_core.sdk.errors import InvalidInputError, NotFoundError
from tmde_core.sdk.gguf_header import GgufHeader, read_header
from tmde_core.sdk.model_folders import find_folder, list_folders
from tmde_core.sdk.runtimes import ModelInfo
from tmde_cpu.base_name import EMBEDDED_ALIASES, is_embedded_name
from tmde_cpu.embedded import EMBEDDED_FILE, verify_embedded
from tmde_cpu.serving.options import DEFAULT_CONTEXT, EmbeddedSettings

RUNTIME = "embedded"


class ModelSource(msgspec.Struct, frozen=True):
    """A model's name and path: a GGUF file, or a directory of safetensors."""

    name: str
    path: Path

    @property
    def is_directory(self) -> bool:
        """Whether the model is a directory, which must be converted before it is served."""
        return self.path.is_dir()


class Catalog:
    """Finds models by name. Only models in the models directory or in the settings can be named."""

    def __init__(self, models_dir: Path, options: EmbeddedSettings) -> None:
        self._models_dir = models_dir
        self._options = options
        self._headers: dict[tuple[Path, int, int, int], GgufHeader | str] = {}
        """The header of each version of a file, or why it cannot be read: a damaged file may take seconds to read."""

    @property
    def default(self) -> ModelSource:
        """The default model, which answers if no model is named."""
        return self._source(self._options.model or EMBEDDED_FILE)

    def find(self, name: str) -> ModelSource:
        """Return the model called `name`, or the default model if `name` is empty.

        Raises:
            NotFoundError: there is no such model. The error lists the known models.
        """
        known = self._sources()
        if not name:
            return self.default
        if name not in known and is_embedded_name(name):
            name = EMBEDDED_FILE
        if name not in known and (source := self._source(name)).path.exists() and find_folder(self._models_dir, name):
            return source  # a base model's own name
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise NotFoundError(
                f"The embedded runtime has no model called {name[:120]!r}; there are: {listed}. "
                f"Put its GGUF file into {self._models_dir}, or name it under [runtimes.embedded] in the settings."
            )
        return known[name]

    def check(self, source: ModelSource) -> None:
        """Check that the model exists and looks complete.

        Raises:
            InvalidInputError: the model is missing or incomplete. The error names the file and says what to do.
        """
        if source.path == self._models_dir / EMBEDDED_FILE:
            verify_embedded(self._models_dir)
        elif source.is_directory:
            if not any(source.path.glob("*.safetensors")):
                raise InvalidInputError(
                    f"The model directory {source.path} holds no *.safetensors files.", field="model"
                )
        elif (header := self.header(source.path)).kind != "model":
            raise InvalidInputError(f"{source.path} is a GGUF {header.kind}, not a model.", field="model")

    def context(self, source: ModelSource) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        trained = None if source.is_directory else self.header(source.path).context_length
        wanted = self._options.context or DEFAULT_CONTEXT
        return min(wanted, trained) if trained else wanted

    def list(self, loaded: set[str]) -> list[ModelInfo]:
        """List every model, the default first. Only headers are read."""
        default = self.default
        sources = {default.name: default, **self._sources()}
        names = self._folder_names()
        return [
            self._info(source, source.name in loaded, source == default, names.get(source.path, ""))
            for source in sources.values()
        ]

    def header(self, path: Path) -> GgufHeader:
        """Return the file's metadata, which is read once for each version of the file."""
        try:
            found = path.stat()
        except OSError:
            return read_header(path)  # raises the error with the sentence
        key = (path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in self._headers:
            try:
                self._headers[key] = read_header(path)
            except InvalidInputError as error:
                if isinstance(error.__context__, OSError):
                    raise  # the next try may succeed
                self._headers[key] = error.detail
        known = self._headers[key]
        if isinstance(known, str):
            raise InvalidInputError(known, field="model")
        return known

    def _sources(self) -> dict[str, ModelSource]:
        named = [self._source(text) for text in (self._options.model, *self._options.models) if text]
        # A link without a target is listed with its problem; folders, pipes and devices are no models.
        files = sorted(file for file in self._models_dir.glob("*.gguf") if file.is_file() or not file.exists())
        there = [
            ModelSource(file.name, file) for file in files if not file.name.startswith(".") and self._is_model(file)
        ]
        return {source.name: source for source in (*there, *self._in_folders({one.name for one in there}), *named)}

    def _in_folders(self, taken: set[str]) -> Sequence[ModelSource]:
        """Return the forms of pulled and added base models. Weights are converted where there is no GGUF."""
        found = []
        for folder in list_folders(self._models_dir):
            files = [file for file in folder.gguf_files if self._is_model(file)]
            sources = [ModelSource(file.name, file) for file in files]
            if not sources and folder.weights is not None:
                sources = [ModelSource(folder.path.name, folder.weights)]
            for source in sources:
                name = source.name if source.name not in taken else f"{folder.path.name}/{source.name}"
                taken.add(name)
                found.append(ModelSource(name, source.path))
        return found

    def _folder_names(self) -> dict[Path, str]:
        """Return the base model's name for each form that this name means, by the form's path."""
        forms = {folder.path.name: next(iter(folder.gguf_files), None) for folder in list_folders(self._models_dir)}
        return {form: name for name, form in forms.items() if form is not None}

    def _source(self, text: str) -> ModelSource:
        if (folder := find_folder(self._models_dir, text)) is not None:
            form = next(iter(folder.gguf_files), None) or folder.weights
            if form is not None:
                return ModelSource(form.name if form.is_file() else folder.path.name, form)
        path = Path(EMBEDDED_FILE if is_embedded_name(text) else text).expanduser()
        return ModelSource(path.name, path if path.is_absolute() else self._models_dir / path)

    def _is_model(self, file: Path) -> bool:
        try:
            return self.header(file).kind == "model"
        except InvalidInputError:
            return True  # a damaged file is listed with its problem; otherwise it would silently be missing

    def _info(self, source: ModelSource, loaded: bool, default: bool, base: str) -> ModelInfo:
        size, context, detail = None, None, ""
        shipped = source.path == self._models_dir / EMBEDDED_FILE
        try:
            if source.is_directory:
                size, detail = _directory_size(source.path), "safetensors; converted to GGUF when it is first used"
            else:
                size = source.path.stat().st_size if source.path.exists() else None
            context = self.context(source)
        except InvalidInputError as error:
            detail = error.detail
        return ModelInfo(
            name=source.name,
            runtime=RUNTIME,
            context_length=context,
            size_bytes=size,
            path=str(source.path),
            loaded=loaded,
            default=default,
            detail=detail,
            aliases=EMBEDDED_ALIASES if shipped else (base,) if base else (),
            shipped=shipped,
        )


def _directory_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors") if file.is_file())
