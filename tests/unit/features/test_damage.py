"""A bank's damage: found wherever it is before anything is read, named, and made good."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kvbench.features.cache import open_bank
from kvbench.features.shards import Column, read_header
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from tests.support.banks import (
    CPU,
    ROWS,
    Dots,
    assert_equal,
    content,
    fail,
    flip,
    in_memory,
    left,
    passes,
    tiny_settings,
)
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_shards")
COUNT = 300  # shards of 128, 128 and 44 rows
SHARDS = {
    1: "shard 1 (images 1 to 128) of 3",
    2: "shard 2 (images 129 to 256) of 3",
    3: "shard 3 (images 257 to 300) of 3",
}
WIDTHS = {"labels": 8, "tap0": 16, "tap1": 24, "logits": 40}  # bytes of a row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole bank."""
    settings = tiny_settings(COUNT)
    open_bank(settings, tmp_path, "a", CPU)
    return settings.path(tmp_path, "a")


def mended(path: Path, expected: str) -> tuple[list[str], int]:
    """Open a damaged bank; returns what was said and how many passes were made; its file must be as ``expected``."""
    reports: list[Progress] = []
    settings = tiny_settings(COUNT)
    with logged() as messages:
        made = open_bank(settings, path.parent, "a", CPU, reports.append)
    seen = passes(settings)
    assert_equal(made, in_memory(settings))
    assert content(path.parent) == expected
    assert left(path.parent) == [".safetensors"]
    assert reports[-1].done == COUNT
    return messages, seen


def places() -> Iterator[tuple[str, int, int]]:
    """Every column and shard, with the distance of its first byte from the file's end."""
    start = -COUNT * sum(WIDTHS.values())
    for name, width in WIDTHS.items():
        for shard in SHARDS:
            yield name, shard, start + (shard - 1) * ROWS * width
        start += COUNT * width
    yield "last byte", 3, -1


@pytest.mark.parametrize(("column", "shard", "at"), [*places()])
def test_a_flipped_bit_in_a_shard_has_it_made_again_alone(column: str, shard: int, at: int, path: Path) -> None:
    whole = content(path.parent)
    flip(path, at)
    told, seen = mended(path, whole)
    assert told == [f"a: {path}: {SHARDS[shard]} damaged; computed again."]
    assert seen == 1


def test_several_damaged_shards_are_named_together(path: Path) -> None:
    whole = content(path.parent)
    flip(path, -1)
    flip(path, -COUNT * 88)
    told, seen = mended(path, whole)
    assert told == [f"a: {path}: shards 1 (images 1 to 128), 3 (images 257 to 300) of 3 damaged; computed again."]
    assert seen == 2


def test_mending_that_is_interrupted_is_taken_up_again(path: Path) -> None:
    whole = content(path.parent)
    flip(path, -1)
    flip(path, -COUNT * 88)
    with pytest.MonkeyPatch.context() as broken:
        fail(broken, "pwrite", errno.EIO, len(WIDTHS) + 1)
        with pytest.raises(UserError, match=r"^Cannot write .*: Input/output error\.$"):
            open_bank(tiny_settings(COUNT), path.parent, "a", CPU)
    told, seen = mended(path, whole)
    assert told == [f"a: {path}: {SHARDS[3]} damaged; computed again."]
    assert seen == 1


@pytest.mark.parametrize("part", range(16))
def test_a_flipped_bit_in_the_header_has_all_made_again(part: int, path: Path) -> None:
    whole = content(path.parent)
    header = path.stat().st_size - COUNT * 88
    flip(path, part if part < 8 else 8 + (part - 8) * (header - 9) // 7)  # its length; from its first to its last byte
    told, seen = mended(path, whole)
    assert len(told) == 1
    assert told[0].startswith(f"a: {path} is not a complete bank (")
    assert seen == 3


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -COUNT * 88, -1])
def test_a_file_cut_short_is_made_again(kept: int, path: Path) -> None:
    whole = content(path.parent)
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    told, seen = mended(path, whole)
    assert "is not a complete bank (" in told[0]
    assert seen == 3


def test_a_file_that_goes_on_behind_its_end_is_made_again(path: Path) -> None:
    whole = content(path.parent)
    with path.open("ab") as file:
        file.write(b"\0")
    assert "bytes do not hold what its header says" in mended(path, whole)[0][0]


HUGE = (2**63).to_bytes(8, "little")


@pytest.mark.parametrize(
    "written",
    [b"hello" * 100, HUGE, HUGE + b"{}", *((n).to_bytes(8, "little") + b"[" * n for n in (10, 90_000))],
)
def test_what_is_no_safetensors_file_is_made_again(written: bytes, path: Path) -> None:
    whole = content(path.parent)
    path.write_bytes(written)
    assert mended(path, whole)[1] == 3


def test_another_safetensors_file_is_made_again(path: Path) -> None:
    whole = content(path.parent)
    metadata = {"fingerprint": json.dumps(tiny_settings(COUNT).fingerprint)}
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata)
    assert mended(path, whole)[1] == 3


def columns_of(**changed: Any) -> tuple[Column, ...]:
    whole = {"labels": ("I64", ()), "tap0": ("F32", (4,)), "tap1": ("F32", (6,)), "logits": ("F32", (10,))} | changed
    return tuple(Column(name, dtype, shape) for name, (dtype, shape) in whole.items())


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (COUNT - 1, columns_of()),
        (COUNT, columns_of(logits=("F32", (11,)))),
        (COUNT, columns_of(logits=("BF16", (10,)))),
        (COUNT, columns_of(tap0=("I64", (4,)))),
        (COUNT, columns_of(tap1=("F32", (3, 2)))),
        (COUNT, columns_of(tap2=("F32", (6,)))),
        (COUNT, columns_of()[:-1]),
        (COUNT, columns_of()[::-1]),
        (-COUNT, columns_of(tap0=("F32", (-100,)))),
    ],
)
def test_a_whole_file_with_other_columns_is_made_again(rows: int, columns: tuple[Column, ...], path: Path) -> None:
    whole = content(path.parent)
    with path.open("rb") as file:
        layout = replace(read_header(file.fileno())[0], rows=rows, columns=columns)
    header = layout.header(["0" * 64] * len(layout.shards))
    path.write_bytes(header + bytes(layout.size - len(header)))
    assert mended(path, whole)[1] == 3


def test_the_bits_that_are_mapped_stay_while_a_shard_is_mended(path: Path) -> None:
    opened = open_bank(tiny_settings(COUNT), path.parent, "a", CPU)
    flip(path, -1)
    mended(path, open_and_count(path))
    assert_equal(opened, in_memory(tiny_settings(COUNT)))


def open_and_count(path: Path) -> str:
    """Checksum of the bank made elsewhere."""
    elsewhere = path.parent.with_name(f"{path.parent.name}-elsewhere")
    open_bank(tiny_settings(COUNT), elsewhere, "a", CPU)
    return content(elsewhere)


def test_a_bank_whose_shards_come_out_otherwise_here_is_made_again_as_a_whole(path: Path) -> None:
    class Elsewhere(Dots):
        @property
        def fingerprint(self) -> dict[str, Any]:
            return Dots(COUNT).fingerprint

    flip(path, -1)
    here = replace(tiny_settings(COUNT), images=Elsewhere(COUNT, seed=5))
    with logged() as messages:
        made = open_bank(here, path.parent, "a", CPU)
    assert f"a: another machine or version wrote {path}; it is computed again." in messages
    assert_equal(made, in_memory(here))
