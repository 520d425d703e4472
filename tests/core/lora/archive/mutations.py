"""Archives that an enemy, a bad disk or a careless tool might send: the same seed gives the same ones."""

from __future__ import annotations

import gzip
import json
import random
import struct
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from tests.core.lora.archive.archives import file_info, peft_files, safetensors, tar, weights

NAMES = (
    *(
        "../evil",
        "/tmp/evil",
        "adapter/../../evil",
        "..",
        ".",
        "",
        "/",
        "//",
        "adapter",
        "adapter/",
        "adapter/evil",
        "a/b/c",
    ),
    *("adapter/adapter_config.json", "adapter/manifest.json", "adapter/adapter.gguf", "adapter/x.bin", "active.json"),
    *("..\\evil", "C:\\evil", "con", "adapter/\x01", "adapter/é" * 20, "x" * 99, ".staging-x", "../active.json"),
)
KINDS = (b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"g", b"x", b"K", b"L", b"S", b"M", b"V", b"X", b"\xff")
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**63,
        2**200,
        1e308,
        "",
        "x",
        "../..",
        "\0",
        [],
        {},
        [[]],
        {"a": 1},
        ["q_proj"],
        "q_proj",
    ),
    *(
        "x" * 10_000,
        ["x"] * 3000,
        "LORA",
        "F64",
        [4, 8],
        [0, 128],
        [1, 2, 3],
        {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    ),
)


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """So many archives."""
    draws = random.Random(seed)
    ways: tuple[Callable[[random.Random], bytes], ...] = (
        _bits,
        _tar_bits,
        _header_field,
        _extra_members,
        _config,
        _weights,
        _cut,
    )
    for number in range(count):
        yield ways[number % len(ways)](draws)


def _sound(draws: random.Random) -> dict[str, bytes]:
    files = peft_files()
    if draws.random() < 0.5:
        files["manifest.json"] = json.dumps(
            {"id": "not", "createdAt": "2026-01-01T00:00:00Z", "baseModel": "x"}
        ).encode()
    return files


def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _spoilt(content: bytes, draws: random.Random, most: int = 8) -> bytes:
    """A few bytes changed, taken out, put in or said twice."""
    spoilt = bytearray(content)
    for _ in range(draws.randint(1, most)):
        place = draws.randrange(len(spoilt) or 1)
        match draws.randrange(4):
            case 0:
                spoilt[place : place + 1] = bytes([draws.randrange(256)])
            case 1:
                del spoilt[place : place + draws.randint(1, 600)]
            case 2:
                spoilt[place:place] = draws.randbytes(draws.randint(1, 600))
            case _:
                spoilt[place:place] = spoilt[place : place + draws.randint(1, 1024)]
    return bytes(spoilt)


def _bits(draws: random.Random) -> bytes:
    return _spoilt(_zipped(tar(_sound(draws))), draws)


def _tar_bits(draws: random.Random) -> bytes:
    return _zipped(_spoilt(tar(_sound(draws)), draws))


def _cut(draws: random.Random) -> bytes:
    plain, whole = tar(_sound(draws)), _zipped(tar(_sound(draws)))
    if draws.random() < 0.5:
        return _zipped(plain[: draws.randrange(len(plain))])
    return whole[: draws.randrange(len(whole))] + (whole if draws.random() < 0.3 else b"")


def _header_field(draws: random.Random) -> bytes:
    """A header changed, and its checksum made right again."""
    plain = bytearray(tar(_sound(draws), form=draws.choice((tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))))
    starts = [place for place in range(0, len(plain) - 512, 512) if plain[place + 257 : place + 262] == b"ustar"]
    start = draws.choice(starts)
    field, width = draws.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    content = draws.choice(
        (
            draws.choice(NAMES).encode()[:width],
            draws.choice(KINDS)[:width],
            b"%o" % draws.choice((0, 1, 511, 513, 10**6, 8**11 - 1)),
            b"\x80" + draws.randbytes(7),
            draws.randbytes(width),
        )
    )[:width]
    plain[start + field : start + field + width] = content.ljust(width, b"\0")
    header = plain[start : start + 512]
    header[148:156] = b" " * 8
    plain[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return _zipped(bytes(plain))


def _extra_members(draws: random.Random) -> bytes:
    content = bytearray()
    blocks = [_member(f"adapter/{name}", b"0", data) for name, data in _sound(draws).items()]
    for _ in range(draws.choice((1, 2, 5, 200))):
        data = draws.choice((b"", b"x", b"11 path=/x\n", b"30 GNU.sparse.realsize=1000000\n", draws.randbytes(700)))
        blocks.insert(draws.randrange(len(blocks) + 1), _member(draws.choice(NAMES), draws.choice(KINDS), data))
    for block in blocks:
        content += block
    return _zipped(bytes(content) + bytes(1024))


def _member(name: str, kind: bytes, data: bytes) -> bytes:
    info = file_info(name[:90], len(data), type=kind, linkname="/etc/passwd")
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def _config(draws: random.Random) -> bytes:
    files = peft_files()
    name = draws.choice(("adapter_config.json", "manifest.json", "metrics.json", "training_args.json"))
    told = json.loads(files["adapter_config.json"])
    for _ in range(draws.randint(1, 3)):
        told[draws.choice([*told, "id", "use_dora", "rank_pattern", "__proto__"])] = draws.choice(VALUES)
    text = json.dumps(told).encode()
    files[name] = draws.choice((text, _spoilt(text, draws), b"[" * 50_000, b"", b"\xff", b"1" * 5000))
    return _zipped(tar(files))


def _weights(draws: random.Random) -> bytes:
    tensors = weights(rank=draws.choice((4, 4, 3, 0)), seed=draws.randrange(5))
    entry = draws.choice(list(tensors))
    match draws.randrange(4):
        case 0:
            content = safetensors(tensors, **{entry: draws.choice(VALUES)})
        case 1:
            told = {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}
            content = safetensors(tensors, **{entry: told | {draws.choice(list(told)): draws.choice(VALUES)}})
        case 2:
            content = _spoilt(safetensors(tensors), draws)
        case _:
            content = struct.pack("<Q", draws.choice((0, 1, 2**63, 2**64 - 1, 10**7, 50))) + draws.randbytes(60)
    return _zipped(tar(peft_files() | {"adapter_model.safetensors": content}))
