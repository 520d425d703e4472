"""Two thousand archives that are wrong in some way: each is refused by name or taken in whole, and nothing else changes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from tests.core.lora.archive.archives import packed, peft_files, pieces
from tests.core.lora.archive.mutations import mutated
from tmde_core.errors import AdapterInvalidError, InvalidInputError, TooLargeError

ARCHIVES = 2000
LOOKED_AT_EVERY = 100


def everything(directory: Path) -> set[tuple[str, int]]:
    """Every file below, and its size. What the database writes is its own business."""
    return {
        (str(path.relative_to(directory)), path.lstat().st_size if not path.is_dir() else 0)
        for path in directory.rglob("*")
        if not path.name.startswith("tmde.db") and path.suffix != ".lock"
    }


async def test_mutated_archives_are_refused_by_name_write_nothing_outside_and_leave_nothing(services, tmp_path):
    store = services.stores.adapters
    await services.archives.import_archive(pieces(packed(peft_files())))
    before = everything(tmp_path)
    seen: Counter[str] = Counter()
    for number, content in enumerate(mutated(seed=4, count=ARCHIVES)):
        try:
            adapter = await services.archives.import_archive(pieces(content))
        except (AdapterInvalidError, InvalidInputError, TooLargeError) as error:
            seen[error.code] += 1
        else:
            seen["taken in"] += 1
            store.verify_files(adapter.id)
            shutil.rmtree(store.path(adapter.id))
        if number % LOOKED_AT_EVERY == 0:
            assert everything(tmp_path) == before, f"archive {number} left something"
    assert everything(tmp_path) == before
    # Were all refused for the same reason, the mutations would test nothing.
    assert seen["adapter_invalid"] > ARCHIVES / 4
    assert seen["invalid_input"] > 20
    assert seen["taken in"] > 20
