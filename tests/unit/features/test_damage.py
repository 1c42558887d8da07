"""A bank's damage: found wherever it is before anything is read, named, and made good."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from kvbench.features.store import Store
from kvbench.utils.errors import UserError
from kvbench.utils.files import MANIFEST
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
    open_bank,
    part_of,
    passes,
    sealed,
    tiny_settings,
)
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_parts")
COUNT = 300  # parts of 128, 128 and 44 rows
NAMES = [
    "part-00000.safetensors (images 1 to 128)",
    "part-00001.safetensors (images 129 to 256)",
    "part-00002.safetensors (images 257 to 300)",
]
WIDTHS = {"labels": 8, "logits": 40, "tap0": 16, "tap1": 24}  # bytes of a row, in the file's order
SUM = "it does not have its checksum"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of a whole bank."""
    open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    return tiny_settings(COUNT).path(tmp_path, "a")


def part(path: Path, number: int) -> Path:
    return path / f"part-{number:05d}.safetensors"


def repaired(path: Path, expected: dict[str, str]) -> tuple[list[str], int]:
    """Open a damaged bank; returns what was said and how many passes were made; its parts must be as ``expected``."""
    reports: list[Progress] = []
    settings = tiny_settings(COUNT)
    with logged() as messages:
        made = open_bank(settings, path.parent, "a", CPU, reports.append)
    assert_equal(made, in_memory(tiny_settings(COUNT)))
    assert content(path.parent) == expected
    assert left(path.parent) == ["manifest", "0", "1", "2"]
    assert not reports or reports[-1].done == COUNT
    return messages, passes(settings)


def places() -> Iterator[tuple[str, int, int]]:
    """Every column of two parts, with the distance of its first byte from the file's end."""
    for number, rows in ((0, ROWS), (2, COUNT - 2 * ROWS)):
        start = -rows * sum(WIDTHS.values())
        for name, width in WIDTHS.items():
            yield name, number, start
            start += rows * width
    yield "last byte", 2, -1


@pytest.mark.parametrize(("column", "number", "at"), [*places()])
def test_a_flipped_bit_in_a_part_has_it_made_again_alone(column: str, number: int, at: int, path: Path) -> None:
    whole = content(path.parent)
    flip(part(path, number), at)
    told, seen = repaired(path, whole)
    assert told[0] == f"a: {path}: {NAMES[number]} damaged ({SUM}); computed again."
    assert told[1:] == [f"a: resuming after {256 if number == 2 else 172} of 300 images."]
    assert seen == 1


def test_several_damaged_parts_are_named_together(path: Path) -> None:
    whole = content(path.parent)
    flip(part(path, 0), -1)
    flip(part(path, 2), -1)
    told, seen = repaired(path, whole)
    assert told[0] == f"a: {path}: {NAMES[0]}, {NAMES[2]} damaged ({SUM}); computed again."
    assert seen == 2


def test_a_repair_that_is_interrupted_is_taken_up_again(path: Path) -> None:
    whole = content(path.parent)
    flip(part(path, 0), -1)
    flip(part(path, 2), -1)
    with pytest.MonkeyPatch.context() as broken:
        fail(broken, "fsync", errno.EIO, 1)
        with pytest.raises(UserError, match=r"^Cannot write .*part-00002\.safetensors: Input/output error\.$"):
            open_bank(tiny_settings(COUNT), path.parent, "a", CPU)
    told, seen = repaired(path, whole)
    assert told[0] == f"a: {path}: {NAMES[2]} damaged ({SUM}); computed again."
    assert seen == 1


@pytest.mark.parametrize("place", range(16))
def test_a_flipped_bit_in_a_header_has_the_part_made_again(place: int, path: Path) -> None:
    whole = content(path.parent)
    header = part(path, 0).stat().st_size - ROWS * 88
    flip(part(path, 0), place if place < 8 else 8 + (place - 8) * (header - 9) // 7)  # its length; first to last byte
    told, seen = repaired(path, whole)
    assert told[0].startswith(f"a: {path}: {NAMES[0]} damaged (it")
    assert seen == 1


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -ROWS * 88, -1])
def test_a_part_cut_short_is_made_again(kept: int, path: Path) -> None:
    whole = content(path.parent)
    os.truncate(part(path, 0), kept if kept >= 0 else part(path, 0).stat().st_size + kept)
    told, seen = repaired(path, whole)
    assert f"{NAMES[0]} damaged (" in told[0]
    assert seen == 1


def test_a_part_that_goes_on_behind_its_end_is_made_again(path: Path) -> None:
    whole = content(path.parent)
    with part(path, 1).open("ab") as file:
        file.write(b"\0")
    assert NAMES[1] in repaired(path, whole)[0][0]


def test_a_part_that_is_gone_is_missing_and_no_damage(path: Path) -> None:
    whole = content(path.parent)
    part(path, 1).unlink()
    assert repaired(path, whole) == (["a: resuming after 172 of 300 images."], 1)


HUGE = (2**63).to_bytes(8, "little")


@pytest.mark.parametrize(
    "written",
    [b"hello" * 100, HUGE, HUGE + b"{}", *((n).to_bytes(8, "little") + b"[" * n for n in (10, 90_000, 2_000_000))],
)
def test_what_is_no_safetensors_file_is_made_again(written: bytes, path: Path) -> None:
    whole = content(path.parent)
    part(path, 0).write_bytes(written)
    assert repaired(path, whole)[1] == 1


def test_another_safetensors_file_is_made_again(path: Path) -> None:
    whole = content(path.parent)
    save_file({"weight": torch.zeros(1)}, part(path, 0), {"kvbench": json.dumps({"part of": "another"})})
    assert repaired(path, whole)[1] == 1


def test_a_part_of_another_bank_or_place_is_made_again(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = content(path.parent)
    elsewhere = tmp_path_factory.mktemp("other")
    other = tiny_settings(COUNT, images=Dots(COUNT, seed=5))
    open_bank(other, elsewhere, "a", CPU)
    for source in (part_of(other, elsewhere), part(path, 1)):
        part(path, 0).write_bytes(source.read_bytes())
        told, seen = repaired(path, whole)
        assert told[0] == f"a: {path}: {NAMES[0]} damaged (it belongs to another bank); computed again."
        assert seen == 1


def columns_of(**changed: Tensor) -> dict[str, Tensor]:
    whole = {"labels": torch.zeros(ROWS, dtype=torch.int64), "logits": torch.zeros(ROWS, 10)}
    return {**whole, "tap0": torch.zeros(ROWS, 4), "tap1": torch.zeros(ROWS, 6), **changed}


def forge(file: Path, columns: dict[str, Tensor], **changed: Any) -> None:
    """Write a part with a checksum that fits, as a stranger could make it."""
    with safe_open(file, "pt") as opened:
        about = {**json.loads(opened.metadata()["kvbench"]), **changed}

    class Forged(Store):
        def _belongs(self, part: int) -> str:
            return str(about["part of"])

    Forged(tiny_settings(COUNT), file.parents[1], "a").write(int(file.stem[-5:]), columns, about["built_with"])


@pytest.mark.parametrize(
    "columns",
    [
        {name: column[:-1] for name, column in columns_of().items()},
        columns_of(labels=torch.zeros(ROWS - 1, dtype=torch.int64)),
        columns_of(labels=torch.zeros(ROWS)),
        columns_of(logits=torch.zeros(ROWS, 11)),
        columns_of(logits=torch.zeros(ROWS, 10, dtype=torch.bfloat16)),
        columns_of(tap0=torch.zeros(ROWS, 4, dtype=torch.int64)),
        columns_of(tap1=torch.zeros(ROWS, 3, 2)),
        columns_of(tap1=torch.tensor(0.0)),
        columns_of(tap2=torch.zeros(ROWS, 6)),
        {name: column for name, column in columns_of().items() if name != "tap1"},
    ],
)
def test_a_whole_part_with_other_columns_is_made_again(columns: dict[str, Tensor], path: Path) -> None:
    whole = content(path.parent)
    forge(part(path, 0), columns)
    told, seen = repaired(path, whole)
    assert "damaged (it has other " in told[0]
    assert seen == 1


def test_parts_of_unlike_widths_are_refused(path: Path) -> None:
    forge(part(path, 0), columns_of(tap1=torch.zeros(ROWS, 7)))
    with pytest.raises(UserError, match=r"has parts of unlike widths: remove it"):
        open_bank(tiny_settings(COUNT), path.parent, "a", CPU)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "{}",
        "[" * 100_000,
        "3",
        '{"bank": 3}',
        '{"bank": {}, "built_with": [], "parts": [[1, 2, 3, 4]]}',
        '{"bank": {}, "built_with": [[]], "parts": [["a", 0, 1e999, 3]]}',
    ],
)
def test_a_manifest_that_cannot_be_read_is_written_again_from_the_parts(text: str, path: Path) -> None:
    whole, manifest = content(path.parent), (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_text(text)
    assert repaired(path, whole) == ([], 0)
    assert (path / MANIFEST).read_bytes() == manifest


def test_a_flipped_bit_in_a_manifest_is_seen_wherever_it_is(path: Path) -> None:
    whole, manifest = content(path.parent), (path / MANIFEST).read_bytes()
    for at in range(0, len(manifest), 17):
        flip(path / MANIFEST, at)
        assert repaired(path, whole) == ([], 0)
        assert (path / MANIFEST).read_bytes() == manifest, at


def test_a_manifest_of_another_bank_is_written_again_from_the_parts(path: Path) -> None:
    whole, manifest = content(path.parent), json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(sealed({**manifest, "bank": {"format": 0}}))
    assert repaired(path, whole) == ([], 0)
    assert json.loads((path / MANIFEST).read_text()) == manifest


def test_a_manifest_that_says_what_is_not_so_is_no_trap(path: Path) -> None:
    """It takes a file for a part that is none."""
    whole, manifest = content(path.parent), json.loads((path / MANIFEST).read_text())
    part(path, 1).write_bytes(b"hello")
    stat = part(path, 1).stat()
    manifest["parts"][1][2:] = [stat.st_size, stat.st_mtime_ns]
    (path / MANIFEST).write_text(sealed(manifest))
    assert repaired(path, whole)[1] == 1


def test_the_bits_that_are_mapped_stay_while_a_part_is_made_again(path: Path) -> None:
    opened = open_bank(tiny_settings(COUNT), path.parent, "a", CPU)
    whole = content(path.parent)
    spoilt = part(path, 2).read_bytes()[:-1]
    part(path, 2).unlink()
    part(path, 2).write_bytes(spoilt)
    repaired(path, whole)
    assert_equal(opened, in_memory(tiny_settings(COUNT)))


def test_a_part_that_comes_out_otherwise_here_is_told(path: Path) -> None:
    class Elsewhere(Dots):
        @property
        def fingerprint(self) -> dict[str, Any]:
            return Dots(COUNT).fingerprint

    flip(part(path, 2), -1)
    with logged() as messages:
        open_bank(tiny_settings(COUNT, images=Elsewhere(COUNT, seed=5)), path.parent, "a", CPU)
    assert messages[-1] == f"a: {path}: {NAMES[2]} came out with other bits."


# Disks


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a file of Linux that cannot be read")
def test_a_disk_that_cannot_be_read_is_told(path: Path) -> None:
    part(path, 1).unlink()
    part(path, 1).symlink_to("/proc/self/mem")  # whose first byte cannot be read
    with pytest.raises(UserError, match=r"^Cannot read .*part-00001\.safetensors: Input/output error\. Remove it"):
        open_bank(tiny_settings(COUNT), path.parent, "a", CPU)


@pytest.mark.parametrize(
    ("name", "after", "done"), [("fsync", 0, 0), ("fsync", 1, 1), ("replace", 0, 0), ("replace", 2, 2)]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_be_written_is_told_and_what_is_done_stays(
    name: str, after: int, done: int, number: int, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as broken:
        fail(broken, name, number, after)
        told = rf"^Cannot write .*part-0000{after}\.safetensors: {os.strerror(number)}\.$"
        with pytest.raises(UserError, match=told):
            open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert left(tmp_path) == ["0", "1", "2"][:done]
    settings = tiny_settings(COUNT)
    assert_equal(open_bank(settings, tmp_path, "a", CPU), in_memory(tiny_settings(COUNT)))
    assert passes(settings) == 3 - done


def test_a_manifest_that_cannot_be_written_costs_reading_the_parts_alone(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as broken:
        fail(broken, "replace", errno.ENOSPC, 3)
        made = open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert left(tmp_path) == ["0", "1", "2"]
    assert_equal(open_bank(tiny_settings(COUNT), tmp_path, "a", CPU), made)
    assert left(tmp_path) == ["manifest", "0", "1", "2"]


def test_a_part_is_what_safetensors_writes(path: Path) -> None:
    with safe_open(part(path, 0), "pt") as file:
        metadata = file.metadata()
    assert part(path, 0).read_bytes() == save(load_file(part(path, 0)), metadata)
