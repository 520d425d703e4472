"""An adapter is published whole or not at all."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from tmde_core.errors import AdapterInvalidError, ConflictError, InsufficientStorageError
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory

ROUNDS = 20

PUBLISHER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.records.lora import Manifest
directory = Path(sys.argv[1])
sys.stdout.write("ready\\n"); sys.stdout.flush()
for text in sys.stdin:
    identity = UUID(text.strip())
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(identity.bytes * 200_000)
    (staging / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    publish(staging, directory, Manifest(id=identity, created_at=datetime.now(UTC), base_model="b"))
    sys.stdout.write(f"{identity}\\n"); sys.stdout.flush()
"""


def manifest(identity: UUID) -> Manifest:
    return Manifest(id=identity, created_at=datetime(2026, 1, 1, tzinfo=UTC), base_model="base")


def staged(directory: Path, identity: UUID) -> Path:
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(b"weights")
    (staging / "adapter_config.json").write_text("{}")
    return staging


def test_the_manifest_names_every_file_with_hash_and_size(tmp_path: Path):
    identity = uuid4()
    path = publish(staged(tmp_path, identity), tmp_path, manifest(identity))
    assert path == tmp_path / str(identity)
    written = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
    assert written.files == {
        "adapter_model.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "adapter_config.json": hashlib.sha256(b"{}").hexdigest(),
    }
    assert written.size_bytes == 9
    assert [entry.name for entry in tmp_path.iterdir()] == [str(identity)]


def test_a_published_adapter_is_never_replaced(tmp_path: Path):
    identity = uuid4()
    publish(staged(tmp_path, identity), tmp_path, manifest(identity))
    before = (tmp_path / str(identity) / "manifest.json").read_bytes()
    with pytest.raises(ConflictError, match="already published"):
        publish(staged(tmp_path, identity), tmp_path, manifest(identity))
    assert (tmp_path / str(identity) / "manifest.json").read_bytes() == before


def test_a_directory_that_lacks_the_weights_is_refused(tmp_path: Path):
    identity = uuid4()
    staging = staged(tmp_path, identity)
    (staging / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalidError, match=r"lacks adapter_model.safetensors"):
        publish(staging, tmp_path, manifest(identity))


def test_links_and_folders_are_refused(tmp_path: Path):
    identity = uuid4()
    staging = staged(tmp_path, identity)
    (staging / "passwd").symlink_to("/etc/passwd")
    (staging / "folder").mkdir()
    with pytest.raises(AdapterInvalidError, match="also has folder, passwd"):
        publish(staging, tmp_path, manifest(identity))
    assert not (tmp_path / str(identity)).exists()


def test_a_staging_directory_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(AdapterInvalidError, match="no finished adapter"):
        publish(tmp_path / "nothing", tmp_path, manifest(uuid4()))


def test_a_full_disk_is_said_and_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    identity = uuid4()

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full, raising=True)
    staging = staging_directory(tmp_path, identity)
    staging.mkdir()
    (staging / "adapter_model.safetensors").write_text("weights")
    (staging / "adapter_config.json").write_text("{}")
    with pytest.raises(InsufficientStorageError, match="is full"):
        publish(staging, tmp_path, manifest(identity))
    assert not (tmp_path / str(identity)).exists()


def test_killed_at_any_moment_it_leaves_a_whole_adapter_or_none(tmp_path: Path):
    moments = random.Random(3)
    store = AdapterStore(tmp_path)
    acknowledged: set[str] = set()
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", PUBLISHER, str(store.directory)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            process.stdin.write("".join(f"{uuid4()}\n" for _ in range(200)))
            process.stdin.flush()
            for _ in range(moments.randrange(4)):
                acknowledged.add(process.stdout.readline().strip())
            # Some of these milliseconds fall into writing, some into hashing, some around the rename.
            try:
                process.wait(moments.random() * 0.02)
            except subprocess.TimeoutExpired:
                process.kill()
            acknowledged |= {line.strip() for line in process.stdout if line.endswith("\n")}
    adapters = store.list()
    assert acknowledged <= {str(adapter.id) for adapter in adapters}
    assert adapters
    for adapter in adapters:
        assert adapter.is_valid, adapter.invalid_reason
        store.verify_files(adapter.id)
