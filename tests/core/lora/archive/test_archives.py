"""Adapters go out as archives and come back the same; archives of other tools come in; hostile ones leave nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import shutil
import struct
import tarfile
import zlib
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from tests.core.lora.archive.archives import (
    file_info,
    packed,
    peft_files,
    pieces,
    safetensors,
    tar,
    unpacked,
    weights,
    with_member,
)
from tmde_core.errors import (
    AdapterInvalidError,
    InsufficientStorageError,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
)
from tmde_core.lora.archive import layout as archive_layout
from tmde_core.lora.archive import pack, tar_reader
from tmde_core.lora.archive import service as archive
from tmde_core.records.base import utc_now
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory


def publish_real(data_dir: Path, **fields) -> UUID:
    """Publish an adapter whose weights and configuration are what they seem."""
    directory, identity = data_dir / "lora-adapters", uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    for name, content in peft_files().items():
        (staging / name).write_bytes(content)
    (staging / "training_args.json").write_text('{"backend": "none"}')
    (staging / "metrics.json").write_text('{"finalTrainLoss": 0.5}')
    manifest = Manifest(id=identity, created_at=utc_now(), base_model="scripted-1", **fields)
    publish(staging, directory, manifest)
    return identity


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def exported(services, identity: UUID, form: str = "peft") -> bytes:
    export = await services.archives.export(identity, form)
    return b"".join([chunk async for chunk in export.chunks])


async def imported(services, content: bytes):
    return await services.archives.import_archive(pieces(content))


async def refusal(services, content: bytes) -> list[str]:
    """The reasons; and nothing was left behind."""
    with pytest.raises(AdapterInvalidError) as error:
        await imported(services, content)
    nothing_is_left(services)
    assert error.value.detail.startswith("The archive was refused and nothing was kept.")
    return list(error.value.context["reasons"])


def nothing_is_left(services) -> None:
    directory = services.stores.adapters.directory
    assert not directory.exists() or not [path for path in directory.iterdir() if path.name != ".activation.lock"]


# ------------------------------------------------------------------------------------------- export


async def test_the_same_adapter_gives_the_same_bytes_with_everything_in_it(services, data_dir):
    identity = publish_real(data_dir, tags=("stable",), metrics={"finalTrainLoss": 0.5})
    first = await exported(services, identity)
    assert first == await exported(services, identity)
    kept = content_of(services.stores.adapters.path(identity))
    found = unpacked(first)
    assert found.keys() == {*kept, "NOTES.md"}
    assert all(found[name] == content for name, content in kept.items())
    text = found["NOTES.md"].decode()
    assert "scripted-1" in text
    assert "PeftModel.from_pretrained" in text
    export = await services.archives.export(identity)
    assert export.filename == f"tmde-adapter-{str(identity)[:8]}.tar.gz"
    await export.chunks.aclose()


async def test_the_notes_tell_how_to_use_the_gguf_form(services, data_dir, published):
    identity = published(data_dir)
    text = unpacked(await exported(services, identity))["NOTES.md"].decode()
    assert "llama-server --model scripted-1.gguf --lora adapter.gguf" in text
    assert f"tmde lora export {identity} --format merged-gguf" in text
    assert "ADAPTER" not in text  # Ollama takes no adapters any more


async def test_the_gguf_form_is_exported_as_the_file_itself(services, data_dir, published):
    identity = published(data_dir)
    export = await services.archives.export(identity, "gguf")
    content = b"".join([chunk async for chunk in export.chunks])
    assert content == (services.stores.adapters.path(identity) / "adapter.gguf").read_bytes()
    assert (export.filename, export.size_bytes) == (f"tmde-adapter-{str(identity)[:8]}.gguf", len(content))


async def test_what_an_import_would_not_take_is_not_exported_and_the_largest_that_is_comes_back(
    services, data_dir, monkeypatch
):
    identity = publish_real(data_dir)
    content = await exported(services, identity)
    # An archive of exactly what may be exported, and with a limit of one byte less none.
    whole = sum(file.stat().st_size + 1024 for file in services.stores.adapters.path(identity).iterdir())
    for module in (pack, archive, tar_reader):
        name = "MAX_INFLATED_BYTES" if module is tar_reader else "MAX_ARCHIVE_BYTES"
        monkeypatch.setattr(module, name, len(content))
    monkeypatch.setitem(pack.MAX_BYTES, "NOTES.md", 4096)
    monkeypatch.setattr(pack, "MAX_EXPORT_BYTES", whole + 4096)
    assert (await services.archives.import_archive(pieces(await exported(services, identity)))).is_valid
    monkeypatch.setattr(pack, "MAX_EXPORT_BYTES", whole + 4095)
    with pytest.raises(TooLargeError, match=r"An import takes .* at most.*format gguf"):
        await services.archives.export(identity)
    monkeypatch.setattr(pack, "MAX_EXPORT_BYTES", whole + 4096)
    monkeypatch.setitem(pack.MAX_BYTES, "adapter_model.safetensors", 10)
    with pytest.raises(TooLargeError, match="copy its directory"):
        await services.archives.export(identity)


def test_the_largest_export_is_less_than_an_import_takes_however_it_is_wrapped():
    gzip, stored = zlib.compressobj(pack.LEVEL, zlib.DEFLATED, 31), 0
    for _ in range(64):
        stored += len(gzip.compress(bytes(1024 * 1024)))
    stored += len(gzip.flush())
    assert stored / (64 * 1024 * 1024) < archive_layout.MAX_ARCHIVE_BYTES / archive_layout.MAX_EXPORT_BYTES
    assert tar_reader.MAX_INFLATED_BYTES >= archive_layout.MAX_EXPORT_BYTES


async def test_what_cannot_be_exported_is_refused_before_the_first_byte(services, data_dir, published):
    with pytest.raises(NotFoundError):
        await services.archives.export(uuid4())
    with pytest.raises(AdapterInvalidError, match="no GGUF form"):
        await services.archives.export(publish_real(data_dir), "gguf")
    damaged = published(data_dir)
    file = services.stores.adapters.path(damaged) / "adapter_model.safetensors"
    file.write_bytes(b"x" * file.stat().st_size)
    for form in ("peft", "peft-bin"):
        with pytest.raises(AdapterInvalidError, match="has changed since it was published"):
            await services.archives.export(damaged, form)


async def test_a_file_that_changes_during_the_export_breaks_the_stream_off(services, data_dir):
    identity = publish_real(data_dir)
    export = await services.archives.export(identity)
    file = services.stores.adapters.path(identity) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(AdapterInvalidError, match="has changed while it was exported"):
        async for _ in export.chunks:
            pass


async def test_who_stops_reading_stops_the_export_and_closes_its_files(services, data_dir, monkeypatch):
    identity = publish_real(data_dir)
    monkeypatch.setattr("tmde_core.lora.archive.pack.zlib.compressobj", lambda *_: Plain())
    monkeypatch.setattr("tmde_core.lora.archive.pack.PIECE", 64)
    opened = {entry.resolve() for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
    export = await services.archives.export(identity)
    assert await anext(export.chunks)
    await export.chunks.aclose()
    now = {entry.resolve() for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
    assert not [path for path in now - opened if path.is_relative_to(data_dir)]


class Plain:
    """A compressor that does not compress, so that pieces come one by one."""

    def compress(self, block: bytes) -> bytes:
        return block

    def flush(self) -> bytes:
        return b"\0"


# --------------------------------------------------------------------------------------- round trip


async def test_exported_deleted_and_imported_it_is_the_same_to_the_bit(services, data_dir):
    identity = publish_real(
        data_dir,
        tags=("stable", "v1.0"),
        metrics={"finalTrainLoss": 0.5, "deep": {"er": [1, None]}},
        traces_used=2,
        dataset_sha256="a" * 64,
        lineage={"runId": str(uuid4()), "traceIds": [str(uuid4())]},
    )
    path = services.stores.adapters.path(identity)
    before = content_of(path)
    content = await exported(services, identity)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    adapter = await imported(services, content)
    assert (adapter.id, adapter.tags, adapter.is_valid, adapter.is_active) == (
        identity,
        ("stable", "v1.0"),
        True,
        False,
    )
    assert content_of(path) == before
    services.stores.adapters.verify_files(identity)


async def test_a_taken_id_gets_a_new_one_that_names_its_origin(services, data_dir):
    identity = publish_real(data_dir, tags=("stable",), gate="proven")
    before = content_of(services.stores.adapters.path(identity))
    adapter = await imported(services, await exported(services, identity))
    assert adapter.id != identity
    manifest = services.stores.adapters.verify_files(adapter.id)
    assert manifest.lineage["originId"] == str(identity)
    assert (manifest.tags, manifest.gate) == (("stable",), "candidate")
    assert content_of(services.stores.adapters.path(identity)) == before


async def test_an_id_that_a_training_run_is_building_counts_as_taken(services, data_dir):
    identity = publish_real(data_dir)
    content = await exported(services, identity)
    path = services.stores.adapters.path(identity)
    path.rename(staging_directory(path.parent, identity))
    assert (await imported(services, content)).id != identity


# ---------------------------------------------------------------------------------- other tools' own


@pytest.mark.parametrize("folder", ["", "./", "adapter/", "./my adapter/"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_an_archive_of_another_tool_is_taken_in(services, folder, form):
    files = peft_files() | {"README.md": b"# hello", "tokenizer.json": b"{}", "._adapter_config.json": b"\0\5\x16"}
    adapter = await imported(services, gzip.compress(tar(files, folder, form)))
    manifest = services.stores.adapters.verify_files(adapter.id)
    assert manifest.files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert (manifest.base_model, manifest.gate, manifest.traces_used) == ("scripted-1", "candidate", 0)
    kept = content_of(services.stores.adapters.path(adapter.id))
    assert {name: kept[name] for name in manifest.files} == peft_files()


async def test_float_times_folders_and_half_precision_are_no_reason_to_refuse(services):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz", format=tarfile.PAX_FORMAT) as opened:
        opened.addfile(file_info("adapter", type=tarfile.DIRTYPE, mtime=1.5))
        files = peft_files()
        files["adapter_model.safetensors"] = safetensors(
            {name: tensor.astype(np.float16) for name, tensor in weights().items()}
        )
        for name, content in files.items():
            opened.addfile(file_info(f"adapter/{name}", len(content), mtime=1.25), io.BytesIO(content))
    assert (await imported(services, output.getvalue())).is_valid


async def test_bfloat16_weights_are_taken_and_looked_through(services):
    def made(bits: int) -> bytes:
        tensors = {name: np.full(tensor.shape, bits, "<u2") for name, tensor in weights().items()}
        header, content = {}, b""
        for name, tensor in tensors.items():
            header[name] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [len(content), len(content) + tensor.nbytes],
            }
            content += tensor.tobytes()
        text = json.dumps(header).encode()
        return packed(peft_files() | {"adapter_model.safetensors": struct.pack("<Q", len(text)) + text + content})

    assert (await imported(services, made(0x3F80))).is_valid
    with pytest.raises(AdapterInvalidError, match="NaN or infinity"):
        await imported(services, made(0x7F80))


# ------------------------------------------------------------------------------------------ hostile


def odd_members() -> dict[str, bytes]:
    """What is odd → the archive."""
    kinds = {
        "symbolic link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "character device": tarfile.CHRTYPE,
        "block device": tarfile.BLKTYPE,
        "named pipe": tarfile.FIFOTYPE,
        "contiguous file": tarfile.CONTTYPE,
        "sparse file": tarfile.GNUTYPE_SPARSE,
        "unknown kind": b"Z",
    }
    found = {
        what: with_member(file_info("adapter/extra", type=kind, linkname="/etc/passwd")) for what, kind in kinds.items()
    }
    names = {
        "is absolute": "/etc/cron.d/evil",
        "leads out": "adapter/../../evil",
        "no plain file name": "adapter\\..\\evil",
        "no plain path": "adapter//evil",
        "deeper than one folder": "adapter/deep/evil",
        "there twice": "adapter/Adapter_Config.json",
    }
    found |= {what: with_member(file_info(name)) for what, name in names.items()}
    found["long name"] = with_member(file_info("adapter/" + "x" * 150))
    pax = {
        "path": "../evil",
        "size": "0",
        "GNU.sparse.realsize": "9",
        "linkpath": "/etc/passwd",
        "hdrcharset": "BINARY",
    }
    for key, value in pax.items():
        found[f"sets '{key}'"] = with_member(file_info("adapter/x", pax_headers={key: value}), form=tarfile.PAX_FORMAT)
    return found


@pytest.mark.parametrize(("what", "content"), odd_members().items())
async def test_odd_members_are_refused(services, what, content):
    reasons = await refusal(services, content)
    assert any(what in reason for reason in reasons), reasons


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "optimizer.pt", "x.pkl", "rng_state.pth"])
async def test_pickles_are_refused_with_the_reason(services, name):
    (reason,) = await refusal(services, packed(peft_files() | {name: b"\x80\x02}."}))
    assert "runs code when it is loaded" in reason


async def test_all_reasons_are_given_together(services):
    files = peft_files(r=8, lora_alpha=0) | {
        "x.pkl": b"",
        "metrics.json": b"[1]",
        "manifest.json": b'{"id": 1}',
    }
    spoilt = weights()
    next(iter(spoilt.values()))[0, 0] = np.nan
    files["adapter_model.safetensors"] = safetensors(spoilt)
    reasons = await refusal(services, packed(files))
    told = " ".join(reasons)
    for word in ("pickle", "lora_alpha", "NaN", "not of rank 8", "metrics.json", "manifest.json"):
        assert word in told
    assert len(reasons) == 6


async def test_of_another_kind_only_what_makes_it_one_is_told(services):
    files = peft_files(r=8, use_dora=True, task_type="SEQ_CLS") | {"adapter_model.safetensors": b"other tensors"}
    first, second = await refusal(services, packed(files))
    assert first == "The adapter's task is 'SEQ_CLS' (task_type); TMDE serves CAUSAL_LM only."
    assert second == "The adapter is DoRA (use_dora is True); TMDE serves plain LoRA only."
    files = {"adapter_config.json": b'{"peft_type": "PREFIX_TUNING", "r": null}', "deep/adapter_model.safetensors": b""}
    (reason,) = await refusal(services, packed(files))
    assert reason == "The adapter is of the kind 'PREFIX_TUNING' (peft_type); TMDE serves plain LoRA ('LORA') only."


async def test_folders_in_an_adapters_folder_are_told_in_one_sentence(services):
    files = {f"{name}/{file}": content for name in ("one", "two") for file, content in peft_files().items()}
    (reason,) = await refusal(services, packed(files))
    assert reason.endswith(
        "adapter_config.json' and 3 more lie deeper than one folder; pack the folder of one adapter by itself."
    )


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"adapter_config.json": peft_files()["adapter_config.json"]}, "It has no adapter_model.safetensors"),
        ({"adapter_config.json": b"{}"}, "does not say of which kind"),
        ({"adapter_model.safetensors": safetensors(weights())}, "It has no adapter_config.json"),
        (peft_files(r=0), "the rank r"),
        (peft_files(r=True), "the rank r"),
        (peft_files(lora_alpha="8"), "lora_alpha"),
        (peft_files(lora_alpha=-1), "lora_alpha"),
        (peft_files(peft_type="IA3"), "IA3"),
        (peft_files(target_modules=None), "target_modules"),
        (peft_files(target_modules=["k_proj"]), "target_modules does not name"),
        (peft_files(base_model_name_or_path=None), "which base model"),
        (peft_files(base_model_name_or_path="a\nb"), "no name"),
        (peft_files(init_lora_weights="pissa_niter_4"), "changes the base model"),
        (peft_files(init_lora_weights="lora_ga", lora_ga_config={"direction": "ArB2r"}), "changes the base model"),
        (peft_files(modules_to_save=["lm_head"]), "modules_to_save"),
        (peft_files() | {"adapter_config.json": b'{"r": 4, "r": 5}'}, "'r' twice"),
        (peft_files() | {"adapter_config.json": b"[" * 100_000}, "nested too deeply"),
        (peft_files() | {"adapter_config.json": b'{"r": NaN}'}, "no JSON number"),
        (peft_files() | {"adapter_model.safetensors": safetensors(weights(rank=3))}, "not of rank 4"),
        (peft_files() | {"adapter_model.safetensors": safetensors({})}, "holds nothing"),
        (peft_files() | {"adapter_model.safetensors": b"\x80\x02}."}, "pickle"),
        (peft_files() | {"adapter_model.safetensors": b"PK\3\4" + bytes(99)}, "pickle"),
    ],
)
async def test_files_that_are_no_adapter_are_refused(services, files, word):
    reasons = await refusal(services, packed(files))
    assert any(word in reason for reason in reasons), reasons


FIRST, SECOND = list(weights())[:2]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (safetensors(weights())[:-1], "end at byte"),
        (safetensors(weights()) + b"\0", "end at byte"),
        (safetensors(weights(), **{FIRST: None}), "leaves a hole"),
        (safetensors(weights(), **{SECOND: {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}), "overlaps"),
        (safetensors(weights(), **{FIRST: {"dtype": "F32", "shape": [4, 9], "data_offsets": [0, 128]}}), "shape needs"),
        (safetensors(weights(), **{FIRST: {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 128]}}), "shape needs"),
        (safetensors(weights(), **{FIRST: {"dtype": "I8", "shape": [4, 32], "data_offsets": [0, 128]}}), "of the type"),
        (
            safetensors(weights(), **{FIRST: {"dtype": "F32", "shape": [-4, -8], "data_offsets": [0, 128]}}),
            "sound shape",
        ),
        (
            safetensors(weights(), **{FIRST: {"dtype": "F32", "shape": [4, 8], "data_offsets": [128, 0]}}),
            "sound offsets",
        ),
        (safetensors(weights(), **{FIRST: {"dtype": "F32", "shape": [4, 8]}}), "needs dtype"),
        (safetensors(weights(), **{FIRST: 7}), "needs dtype"),
        (safetensors(weights(), __metadata__={"a": 1}), "metadata"),
        (struct.pack("<Q", 2**63) + b"{}", "would have"),
        (struct.pack("<Q", 100) + b"{}", "cut short"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 20) + b'{"a": 1, "a": 2}    ', "'a' twice"),
        (b"", "ends before its header"),
    ],
)
async def test_safetensors_that_lie_are_refused(services, content, word):
    (reason, *_) = await refusal(services, packed(peft_files() | {"adapter_model.safetensors": content}))
    assert reason.startswith("adapter_model.safetensors cannot be used:")
    assert word in reason


def lying_manifests() -> list[tuple[dict, str]]:
    return [
        ({"files": {"adapter_model.safetensors": "0" * 64}}, "has the SHA-256"),
        ({"files": {}}, "does not name adapter_model.safetensors"),
        ({"createdAt": "2026-01-01T00:00:00"}, "createdAt"),
        ({"createdAt": "0001-01-01T00:00:00+14:00"}, "createdAt"),
        ({"tags": ["a b"]}, "is no tag"),
        ({"tags": ["a", "a"]}, "one twice"),
        ({"baseModel": ""}, "baseModel"),
        ({"baseModelSha256": "x"}, "no SHA-256"),
        ({"lineage": {"traceIds": 5}}, "lineage"),
        ({"lineage": {"runId": "../x"}}, "lineage"),
        ({"format": 2, "new": True}, "newer version"),
        ({"unknown": 1}, "unknown"),
        ({"tracesUsed": -1}, "tracesUsed"),
        ({"id": "../../x"}, "id"),
    ]


@pytest.mark.parametrize("name", ["adapter_config.json", "manifest.json"])
async def test_a_byte_order_mark_is_refused_in_a_sentence(services, data_dir, name):
    directory = services.stores.adapters.path(publish_real(data_dir))
    files = content_of(directory)
    shutil.rmtree(directory)
    files[name] = b"\xef\xbb\xbf" + files[name]
    reasons = await refusal(services, packed(files))
    assert any(f"{name} cannot be used: it begins with a byte order mark" in one for one in reasons), reasons


@pytest.mark.parametrize(("changes", "word"), lying_manifests())
async def test_manifests_that_lie_are_refused(services, data_dir, changes, word):
    identity = publish_real(data_dir)
    files = content_of(services.stores.adapters.path(identity))
    for file in services.stores.adapters.path(identity).iterdir():
        file.unlink()
    services.stores.adapters.path(identity).rmdir()
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | changes).encode()
    reasons = await refusal(services, packed(files))
    assert any(word in reason for reason in reasons), reasons


# ----------------------------------------------------------------------------- damaged and oversized


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\3\4" + bytes(600), tar(peft_files()), gzip.compress(b"hello"), gzip.compress(bytes(10_240))],
    # Named, because gzip writes the time: pytest-xdist wants the same names in every worker.
    ids=["nothing", "text", "zip", "tar", "gzip-of-text", "gzip-of-zeros"],
)
async def test_what_is_no_archive_is_bad_input(services, content):
    with pytest.raises(InvalidInputError, match="no gzipped tar archive"):
        await imported(services, content)
    nothing_is_left(services)


async def test_archives_that_are_cut_short_or_go_on_are_refused(services):
    sound = packed(peft_files())
    plain = tar(peft_files())
    for content, word in (
        (sound[:2], "cut short"),
        (sound[:-10], "cut short"),
        (sound[:-4] + b"\0\0\0\0", "damaged"),
        (gzip.compress(plain[:-9000]), "cut short"),
        (sound + b"\0", "follows the end of the gzip stream"),
        (sound + sound, "follows the end of the gzip stream"),
        (gzip.compress(plain + b"x" * 512), "follows the end of the archive"),
        (gzip.compress(plain[:1024] + b"x" * 512 + plain[1536:]), "no member where one should begin"),
    ):
        reasons = await refusal(services, content)
        assert any(word in reason for reason in reasons), (word, reasons)


async def test_thousands_of_members_end_the_walk(services):
    files = {f"{number}.txt": b"" for number in range(5000)}
    reasons = await refusal(services, packed(files | peft_files()))
    assert any("more than 64 members" in reason for reason in reasons)


async def test_a_bomb_is_noticed_after_a_few_megabytes(services, monkeypatch):
    inflated = 0
    original = zlib.decompressobj

    def counted(**options):
        class Counted:
            def __init__(self) -> None:
                self.inner = original(**options)

            def decompress(self, *arguments):
                nonlocal inflated
                block = self.inner.decompress(*arguments)
                inflated += len(block)
                return block

            def __getattr__(self, name):
                return getattr(self.inner, name)

        return Counted()

    monkeypatch.setattr("tmde_core.lora.archive.tar_reader.zlib.decompressobj", counted)
    bomb = packed({"README.md": bytes(60_000_000)} | peft_files())
    reasons = await refusal(services, bomb)
    assert any("is a bomb" in reason for reason in reasons)
    assert inflated < 16_000_000


async def test_too_large_ones_are_refused_by_size(services, monkeypatch):
    sound = packed(peft_files())
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", len(sound) - 1)
    with pytest.raises(TooLargeError) as error:
        await imported(services, sound)
    assert error.value.context["limit"] == len(sound) - 1
    monkeypatch.undo()
    monkeypatch.setattr(tar_reader, "MAX_INFLATED_BYTES", 5000)
    with pytest.raises(TooLargeError):
        await imported(services, sound)
    monkeypatch.undo()
    monkeypatch.setitem(archive_layout.MAX_BYTES, "adapter_config.json", 10)
    reasons = await refusal(services, sound)
    assert any("at most 10" in reason for reason in reasons)


# -------------------------------------------------------------------------------- interrupted, full


async def test_an_upload_that_breaks_off_leaves_nothing(services):
    async def broken():
        yield packed(peft_files())[:500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await services.archives.import_archive(broken())
    nothing_is_left(services)


async def test_a_cancelled_import_leaves_nothing(services):
    waiting = asyncio.Event()

    async def endless():
        yield packed(peft_files())[:500]
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(services.archives.import_archive(endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_is_left(services)


async def test_a_full_disk_in_the_middle_leaves_nothing(services, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tmde_core.lora.archive.unpack.os.fdopen", full)
    with pytest.raises(InsufficientStorageError):
        await imported(services, packed(peft_files()))
    nothing_is_left(services)
