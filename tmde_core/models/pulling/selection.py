"""Chooses the files of a repository to fetch, and says why the others are left out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from tmde_core.errors import InvalidInputError, NotFoundError, UnprocessableError
from tmde_core.models.pulling.listing import HubFile, HubListing
from tmde_core.models.pulling.names import parse_hub_path
from tmde_core.models.pulling.quantizations import GgufModel, choose, find_quantization, group_parts, match, normalize
from tmde_core.records.models import WEIGHTS_FOLDER
from tmde_core.records.pulls import GgufChoice, LeftOutFile, PullFile, PullForm

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill"})
"""Suffixes of files that may run code when they are loaded."""
CODE = frozenset({".py", ".so", ".dll", ".sh", ".exe", ".js", ".ipynb"})
OTHER_WEIGHTS = frozenset({".msgpack", ".h5", ".onnx", ".tflite", ".mlmodel", ".pb", ".ot", ".keras", ".mlpackage"})
ALLOWED = frozenset({".json", ".txt", ".model", ".jinja", ".md"})
"""Suffixes of the small files beside the weights: configuration, tokenizer, chat template, model card."""
LICENSES = re.compile(r"(?i)(license|licence|notice|copying|use[-_]policy)([-_.][a-z0-9._-]*)?")

SMALL_FILE_BYTES = 200_000_000
"""The largest file that is fetched beside the weights. The tokenizer of Gemma 3 takes 33 MB."""
MOST_FILES = 5000
"""The most files that a repository may have. The largest models have about 200."""
MOST_FETCHED = 1000
LARGEST_FILE_BYTES = 50_000_000_000
"""The hub serves larger files only by its own transfer protocol (Xet), not over HTTP."""

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


class Selection(NamedTuple):
    """The files to fetch."""

    form: PullForm
    quantization: str
    files: tuple[PullFile, ...]
    left_out: tuple[LeftOutFile, ...]
    choices: tuple[GgufChoice, ...]
    notes: tuple[str, ...]


def select(listing: HubListing, form: str, file: str, quantization: str) -> Selection:
    """Return the files to fetch.

    Args:
        listing: the repository.
        form: `auto`, `weights` or `gguf`.
        file: a file that a person named, or a quantisation; empty: none.
        quantization: the quantisation that a person asked for; empty: the nearest to Q4_K_M.

    Raises:
        InvalidInputError: the request contradicts itself, or names a file that is never fetched.
        NotFoundError: the repository has no such file or form; the detail lists what there is.
        UnprocessableError: nothing of the repository can be fetched.
    """
    if len(listing.files) > MOST_FILES:
        raise UnprocessableError(
            f"{listing.repository} has {len(listing.files):,} files. A model has at most {MOST_FILES:,}, so this is "
            "not one. Choose another repository."
        )
    shelf = _Shelf(listing)
    if file:
        form, quantization = shelf.interpret(file, form, quantization)
    if form == "auto":
        form = "weights" if shelf.weights and not quantization else "gguf"
    return shelf.weights_form() if form == "weights" else shelf.gguf_form(quantization, file)


class _Shelf:
    """The files of a repository, sorted by what they are."""

    def __init__(self, listing: HubListing) -> None:
        self.repository = listing.repository
        self.left_out: list[LeftOutFile] = []
        self.notes: list[str] = []
        self._listing = listing
        self._beside: list[HubFile] = []
        self._safetensors: list[HubFile] = []
        self._ggufs: dict[str, HubFile] = {}
        self._pickles: list[str] = []
        seen: set[str] = set()
        for one in listing.files:
            self._sort(one, seen)
        self.weights = self._choose_weights()
        self.models, broken = group_parts((path, one.size_bytes or 0) for path, one in self._ggufs.items())
        self._leave_out(broken, "other parts of it are missing")
        for path in broken:
            del self._ggufs[path]

    @property
    def choices(self) -> tuple[GgufChoice, ...]:
        return tuple(
            GgufChoice(
                quantization=one.quantization, path=one.paths[0], size_bytes=one.size_bytes, parts=len(one.paths)
            )
            for one in self.models
        )

    # ------------------------------------------------------------------------------------- sorting

    def _sort(self, one: HubFile, seen: set[str]) -> None:
        parts = parse_hub_path(one.path)
        suffix = PurePosixPath(one.path).suffix.lower()
        if one.path.startswith(".git") and "/" not in one.path:
            return  # of no interest to anybody
        if parts is None:
            self._leave_out([one.path], "its name is not safe")
        elif one.path.casefold() in seen:
            self._leave_out([one.path], "another file has the same name")
        elif suffix in PICKLES:
            self._pickles.append(one.path)
            self._leave_out([one.path], "it may be a pickle, which can run code when it is loaded")
        elif suffix in CODE:
            self._leave_out([one.path], "it is a program, and code of a repository is never run")
        elif suffix in OTHER_WEIGHTS:
            self._leave_out([one.path], "its format is not used here")
        elif suffix == ".gguf":
            self._sort_gguf(one)
        elif len(parts) > 1:
            self._leave_out([one.path], "it is in a folder, and not beside the weights")
        elif suffix == ".safetensors":
            self._safetensors.append(one)
        elif ".bin.index." in one.path or one.path.startswith("consolidated"):
            self._leave_out([one.path], "it belongs to files that are not fetched")
        elif suffix in ALLOWED or LICENSES.fullmatch(one.path):
            if (one.size_bytes or 0) > SMALL_FILE_BYTES:
                self._leave_out([one.path], "it is too large for a file of this kind")
            else:
                self._beside.append(one)
        else:
            self._leave_out([one.path], "files of this kind are not used")
        seen.add(one.path.casefold())

    def _sort_gguf(self, one: HubFile) -> None:
        name = PurePosixPath(one.path).name.lower()
        if "mmproj" in name:
            self._leave_out([one.path], "it is a projector for pictures, and not a model")
        elif "imatrix" in name:
            self._leave_out([one.path], "it holds statistics, and not a model")
        else:
            self._ggufs[one.path] = one

    def _choose_weights(self) -> list[HubFile]:
        """Return the safetensors files that transformers would load."""
        by_name = {one.path: one for one in self._safetensors}
        shards = [one for path, one in sorted(by_name.items()) if _SHARD.fullmatch(path)]
        if "model.safetensors" in by_name:
            chosen = [by_name["model.safetensors"]]
        elif shards:
            chosen = shards
        else:
            chosen = [
                one for one in self._safetensors if not one.path.startswith(("consolidated", "adapter_", "model."))
            ]
        self._leave_out(
            [one.path for one in self._safetensors if one not in chosen], "the weights are in other files already"
        )
        return chosen

    def _leave_out(self, paths: Sequence[str], reason: str) -> None:
        self.left_out += [LeftOutFile(path=path[:200], reason=reason) for path in paths]

    # ------------------------------------------------------------------------------------- choosing

    def interpret(self, file: str, form: str, quantization: str) -> tuple[str, str]:
        """Return the form and quantisation that a named file asks for."""
        if form == "weights":
            raise InvalidInputError(
                f"The weights are fetched whole, so {file[:100]!r} cannot be chosen. Leave out --weights to fetch this "
                "GGUF file, or leave out the file.",
                field="file",
            )
        if quantization:
            raise InvalidInputError(
                f"Name either the file {file[:100]!r} or the quantisation {quantization[:40]}, not both.", field="file"
            )
        suffix = PurePosixPath(file).suffix.lower()
        if suffix in PICKLES | CODE:
            raise InvalidInputError(
                f"{file[:100]!r} is not fetched: files of this kind can run code when they are loaded. Choose a GGUF "
                "file or a repository with safetensors.",
                field="file",
            )
        if suffix == ".safetensors" and any(one.path == file for one in self._listing.files):
            raise InvalidInputError(
                f"The weights are fetched whole, and not one file of them: `tmde models pull {self.repository} "
                "--weights`.",
                field="file",
            )
        return "gguf", ""

    def weights_form(self) -> Selection:
        """Return the weights for training with everything beside them."""
        names = {one.path for one in self._listing.files}
        if not self.weights:
            self._refuse_without_weights(names)
        if "config.json" not in names:
            raise UnprocessableError(
                f"{self.repository} has safetensors but no config.json, so nothing says what model they are. Choose "
                "the repository of a whole model, as transformers reads it."
            )
        if not {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"} & names:
            self.notes.append("The repository has no tokenizer, so training cannot start from it alone.")
        if code := sorted(path for path in names if path.endswith(".py") and "/" not in path):
            self.notes.append(
                f"The model brings code of its own ({', '.join(code)[:120]}), which is not fetched and never run. It "
                "can be trained only if transformers knows its architecture."
            )
        kept = [*self.weights, *self._beside]
        self._leave_out(list(self._ggufs), "it is a GGUF file, and the weights are fetched")
        if self.models:
            self.notes.append(f"The repository has GGUF files too: {self._offer()}. Fetch one with --gguf.")
        return self._selection("weights", "", [(one, f"{WEIGHTS_FOLDER}/{one.path}") for one in kept])

    def gguf_form(self, quantization: str, file: str) -> Selection:
        """Return one GGUF model."""
        model = self._chosen(quantization, file)
        if not (quantization or file) and len(self.models) > 1:
            self.notes.append(
                f"Takes {model.quantization or model.paths[0]}. There are also: {self._offer(without=model)}."
            )
        self._leave_out([path for path in self._ggufs if path not in model.paths], "another GGUF file was chosen")
        left = {one.path for one in self.left_out}
        rest = [one.path for one in (*self._beside, *self._safetensors) if one.path not in left]
        self._leave_out(rest, "a GGUF file needs nothing beside it")
        chosen = [(self._ggufs[path], PurePosixPath(path).name) for path in model.paths]
        return self._selection("gguf", model.quantization, chosen)

    def _chosen(self, quantization: str, file: str) -> GgufModel:
        if not self.models:
            self._refuse_without_gguf()
        if file:
            return self._named(file)
        if not quantization:
            return choose(self.models)
        found = match(self.models, quantization)
        if not found:
            raise NotFoundError(
                f"{self.repository} has no GGUF file with the quantisation {quantization[:40]!r}. There are: "
                f"{self._offer()}."
            )
        return choose(found)

    def _named(self, file: str) -> GgufModel:
        """Return the model that a person named by a path, a file name or a quantisation."""
        exact = [model for model in self.models if file in model.paths]
        by_name = [model for model in self.models if file in {PurePosixPath(path).name for path in model.paths}]
        found = exact or by_name or match(self.models, file)
        if found:
            return choose(found)
        if left := next((one for one in self.left_out if file in (one.path, PurePosixPath(one.path).name)), None):
            raise InvalidInputError(
                f"{file[:100]!r} of {self.repository} is not fetched: {left.reason}. There are: {self._offer()}.",
                field="file",
            )
        names = [path for model in self.models for path in model.paths]
        near = difflib.get_close_matches(file, names, n=3, cutoff=0.4)
        meant_quantization = find_quantization(file) == normalize(file)
        said = f" Did you mean {' or '.join(near)}?" if near and not meant_quantization else ""
        raise NotFoundError(
            f"{self.repository} has no GGUF file {file[:100]!r}.{said} There are: {self._offer()}.", near=near or None
        )

    def _offer(self, without: GgufModel | None = None) -> str:
        names = [model.quantization or model.paths[0] for model in self.models if model is not without]
        more = f" and {len(names) - 30} more" if len(names) > 30 else ""
        return ", ".join(dict.fromkeys(names[:30])) + more

    def _refuse_without_weights(self, names: set[str]) -> None:
        if any(path.startswith("adapter_model") for path in names):
            raise UnprocessableError(
                f"{self.repository} holds an adapter, and not a base model. Download its files and import them with "
                "`tmde lora import`; pull the base model that its page names."
            )
        if self.models:
            raise NotFoundError(
                f"{self.repository} has no safetensors, only GGUF files: {self._offer()}. Leave out --weights to fetch "
                "one of them, or pull the repository of the original model."
            )
        if self._pickles:
            raise UnprocessableError(
                f"{self.repository} has its weights only as pickles ({self._pickles[0][:80]}), which can run code when "
                "they are loaded, so they are never fetched. Look for a copy with safetensors or GGUF files on the "
                "hub, or ask the publisher for one: the hub converts with one click "
                "(https://huggingface.co/spaces/safetensors/convert)."
            )
        raise UnprocessableError(
            f"{self.repository} has no safetensors and no GGUF files, so there is no model to fetch. Check the name."
        )

    def _refuse_without_gguf(self) -> None:
        if self.weights:
            raise NotFoundError(
                f"{self.repository} has no GGUF files, only safetensors. `tmde models pull {self.repository} --weights` "
                f"fetches those; a repository such as {self.repository}-GGUF may have GGUF files."
            )
        self._refuse_without_weights({one.path for one in self._listing.files})

    def _selection(self, form: PullForm, quantization: str, chosen: list[tuple[HubFile, str]]) -> Selection:
        if len(chosen) > MOST_FETCHED:
            raise UnprocessableError(
                f"{self.repository} would need {len(chosen):,} files; at most {MOST_FETCHED:,} are fetched."
            )
        return Selection(
            form,
            quantization,
            tuple(self._file(one, target) for one, target in chosen),
            tuple(sorted(self.left_out, key=lambda one: one.path)),
            self.choices,
            tuple(self.notes),
        )

    def _file(self, one: HubFile, target: str) -> PullFile:
        if one.size_bytes is None or one.size_bytes < 0:
            raise UnprocessableError(
                f"The hub does not tell the size of {one.path[:100]}, so it cannot be checked. Use another hub "
                "(HF_ENDPOINT)."
            )
        if one.size_bytes > LARGEST_FILE_BYTES:
            raise UnprocessableError(
                f"{one.path[:100]} has more than 50 GB, which the hub serves only by its own protocol. Choose a model "
                "that is split into smaller files."
            )
        if one.sha256 is None and one.git_sha1 is None and one.path.lower().endswith((".safetensors", ".gguf")):
            raise UnprocessableError(
                f"The hub names no hash of {one.path[:100]}, so nothing proves that it arrives whole. Use another hub "
                "(HF_ENDPOINT)."
            )
        return PullFile(
            path=one.path,
            target=target,
            size_bytes=one.size_bytes,
            sha256=one.sha256,
            git_sha1=None if one.sha256 else one.git_sha1,
        )
