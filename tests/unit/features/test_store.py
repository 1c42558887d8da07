"""Banks on disk: made once, gone on with after a kill, filled by several, never more in memory than a part."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kvbench.features import fill, store
from kvbench.features.store import Store
from kvbench.utils import environment as provenance
from kvbench.utils.errors import UserError
from kvbench.utils.files import write_bytes
from kvbench.utils.progress import Progress
from tests.support.banks import (
    CPU,
    ROWS,
    TEN,
    assert_equal,
    content,
    in_memory,
    left,
    open_bank,
    part_of,
    passes,
    tiny_settings,
    tiny_teacher,
)
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_parts")
COUNT = 600  # four parts of 128 rows and one of 88
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of a process")
WHOLE = ["manifest", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, ROWS, ROWS + 1, COUNT])
def test_a_bank_on_disk_is_what_one_pass_gives(count: int, precision: str, tmp_path: Path) -> None:
    settings = tiny_settings(count, precision=precision)
    reports: list[Progress] = []
    made = open_bank(settings, tmp_path, "a", CPU, reports.append)
    assert_equal(made, in_memory(settings))
    assert reports[-1] == ("a: teacher pass", count, count, "image")
    assert left(tmp_path) == WHOLE[: 1 + -(-count // ROWS)]
    columns = load_file(part_of(settings, tmp_path))
    assert set(columns) == {"labels", "logits", "tap0", "tap1"}, "safetensors reads it, too"
    assert torch.equal(columns["tap1"], made.taps[1][:ROWS])


def test_the_folder_says_what_decides_the_bank_and_what_built_it(tmp_path: Path) -> None:
    settings = tiny_settings(COUNT)
    open_bank(settings, tmp_path, "a", CPU)
    manifest = json.loads((settings.path(tmp_path, "a") / "manifest.json").read_text())
    assert manifest["bank"] == settings.fingerprint
    assert manifest["built_with"] == [provenance.built_with(CPU)]
    with safe_open(part_of(settings, tmp_path, 4), "pt") as file:
        about = json.loads(file.metadata()["kvbench"])
    assert manifest["parts"][4][0] == about["sha256"]
    assert about["built_with"] == provenance.built_with(CPU)


def test_a_cached_bank_needs_no_teacher_pass(tmp_path: Path) -> None:
    settings = tiny_settings()
    first = open_bank(settings, tmp_path, "a", CPU)
    assert passes(settings) == 2
    assert_equal(first, open_bank(settings, tmp_path, "a", CPU))
    assert_equal(first, open_bank(tiny_settings(), tmp_path, "a", CPU, fresh=True))
    assert passes(settings) == 2
    assert_equal(first, first.to(CPU))


@LINUX
def test_a_bank_is_memory_mapped_also_after_a_move_to_the_cpu(tmp_path: Path) -> None:
    settings = tiny_settings()
    back = open_bank(settings, tmp_path, "a", CPU).to(CPU)
    for part, row in ((0, 5), (1, ROWS + 3)):
        mapped = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(part_of(settings, tmp_path, part)))
        ]
        for column in (*back.taps, back.logits):
            rows = column[row : row + 1]
            assert any(start <= rows.data_ptr() < end for start, end in mapped)
            assert rows.data_ptr() % rows.element_size() == 0


def test_a_bank_in_another_ones_place_is_computed_again(tmp_path: Path) -> None:
    open_bank(tiny_settings(20), tmp_path, "a", CPU)
    wanted = tiny_settings(20, pooling="pyramid")
    tiny_settings(20).path(tmp_path, "a").rename(wanted.path(tmp_path, "a"))
    mine = wanted.path(tmp_path, "a") / "mine.txt"
    mine.touch()
    with logged() as messages:
        assert_equal(open_bank(wanted, tmp_path, "a", CPU), in_memory(wanted))
    assert "damaged (it belongs to another bank); computed again." in messages[0]
    assert mine.exists(), "a user's file is not removed for it"


def test_what_makes_no_pass_leaves_nothing(tmp_path: Path) -> None:
    for settings, told in [
        (tiny_settings(taps=("first", "third")), r"No tap 'third'"),
        (tiny_settings(taps=("second", "first")), r"give first,second"),
        (tiny_settings(teacher=tiny_teacher(names=(*TEN[:9], "cat"))), r"not among them; only in the data: ifs0009"),
    ]:
        with pytest.raises(UserError, match=told):
            open_bank(settings, tmp_path / "cache", "a", CPU)
    assert list(tmp_path.iterdir()) == []


# What an interrupted pass left


def interrupted(folder: Path, after: int = 2 * ROWS) -> None:
    """Begin a bank, and stop after some images."""

    def stop(progress: Progress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    settings = tiny_settings(COUNT)
    with pytest.raises(KeyboardInterrupt):
        open_bank(settings, folder, "a", CPU, stop)
    assert sum(len(part._forward_hooks) for part in settings.teacher.module.modules()) == 0


def resume(folder: Path, *, fresh: bool = False) -> tuple[list[str], int]:
    """Open the tiny bank; returns what was said and the number of passes, 5 of which make all of it."""
    settings = tiny_settings(COUNT)
    with logged() as messages:
        made = open_bank(settings, folder, "a", CPU, fresh=fresh)
    assert_equal(made, in_memory(tiny_settings(COUNT)))
    assert left(folder) == WHOLE
    return messages, passes(settings)


def test_a_pass_that_fails_before_its_first_part_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS", 8 * ROWS)
    interrupted(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_pass_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    open_bank(tiny_settings(COUNT), tmp_path / "whole", "a", CPU)
    interrupted(tmp_path / "halted")
    assert left(tmp_path / "halted") == ["0", "1"]
    assert resume(tmp_path / "halted") == (["a: resuming after 256 of 600 images."], 3)
    assert content(tmp_path / "halted") == content(tmp_path / "whole")


def test_fresh_starts_over(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert resume(tmp_path, fresh=True) == ([], 5)


def test_other_settings_do_not_go_on_with_it(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = tiny_settings(COUNT, precision="bfloat16")
    assert_equal(open_bank(other, tmp_path, "a", CPU), in_memory(other))
    assert left(tiny_settings(COUNT).path(tmp_path, "a")) == ["0", "1"]


# Several who fill one bank


def test_parts_are_filled_in_any_order_by_anybody_and_again_for_nothing(tmp_path: Path) -> None:
    open_bank(tiny_settings(COUNT), tmp_path / "whole", "a", CPU)
    for parts, made in (([4, 1], 2), ([1], 0), ([0, 1, 2], 2)):
        settings = tiny_settings(COUNT)
        reports: list[Progress] = []
        fill.fill([Store(settings, tmp_path / "filled", "a")], parts, CPU, reports.append)
        assert passes(settings) == made
        assert not made or reports[-1].done == reports[-1].total == sum(min(ROWS, COUNT - k * ROWS) for k in parts)
    assert left(tmp_path / "filled") == ["0", "1", "2", "4"]
    assert resume(tmp_path / "filled")[1] == 1
    assert content(tmp_path / "filled") == content(tmp_path / "whole")


def test_a_bank_that_another_makes_meanwhile_stays_whole(tmp_path: Path) -> None:
    """Both compute all of it, and write the same bytes."""
    settings, other = tiny_settings(COUNT), tiny_settings(COUNT)

    def meanwhile(progress: Progress) -> None:
        if progress.done == 3 * ROWS:
            assert_equal(open_bank(other, tmp_path, "a", CPU), in_memory(tiny_settings(COUNT)))
            seen.append(content(tmp_path))

    seen: list[dict[str, str]] = []
    assert_equal(open_bank(settings, tmp_path, "a", CPU, meanwhile), in_memory(tiny_settings(COUNT)))
    assert (passes(settings), passes(other)) == (5, 2)
    assert [content(tmp_path)] == seen
    assert resume(tmp_path) == ([], 0)


def test_parts_from_elsewhere_are_used_and_named_beside_those_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = provenance.built_with(CPU)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(fill, "built_with", lambda _: {**here, "hardware": "abacus"})
        interrupted(tmp_path)
    made = open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert list(made.built_with) == [{**here, "hardware": "abacus"}, here]
    again = open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert list(again.built_with) == [{**here, "hardware": "abacus"}, here]


# What is remembered


def test_checksums_are_compared_once_and_again_where_a_file_changed_or_all_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    compare = Store._checksum

    def counted(bank: Store, part: int) -> tuple[str, str]:
        read.append(part)
        return compare(bank, part)

    monkeypatch.setattr(Store, "_checksum", counted)
    interrupted(tmp_path)
    assert read == [], "what is not there is not read"
    resume(tmp_path)
    assert sorted(read) == [0, 1, 2, 3, 4], "also those of this pass"
    read.clear()
    open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert read == []
    os.utime(part_of(tiny_settings(COUNT), tmp_path, 3), (1, 1))
    open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert read == [3]
    open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    assert read == [3]
    open_bank(tiny_settings(COUNT), tmp_path, "a", CPU, verify=True)
    assert sorted(read) == [0, 1, 2, 3, 3, 4]


def test_a_flipped_bit_that_left_no_trace_is_found_by_reading_all(tmp_path: Path) -> None:
    whole = tiny_settings(COUNT)
    open_bank(whole, tmp_path, "a", CPU)
    path = part_of(whole, tmp_path, 2)
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not torch.equal(open_bank(tiny_settings(COUNT), tmp_path, "a", CPU).taps[1], in_memory(whole).taps[1])
    settings = tiny_settings(COUNT)
    with logged() as messages:
        assert_equal(open_bank(settings, tmp_path, "a", CPU, verify=True), in_memory(tiny_settings(COUNT)))
    assert passes(settings) == 1
    assert "part-00002.safetensors (images 257 to 384) damaged" in messages[0]


# Room


def test_a_disk_that_is_too_small_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    settings = tiny_settings(COUNT)
    with pytest.raises(UserError, match=r"needs 52,800 bytes, and 1,000 are free\. .*--kvbench-cache"):
        open_bank(settings, tmp_path, "a", CPU)
    assert passes(settings) == 1
    assert left(tmp_path) == []


def test_a_bank_that_is_bad_right_after_it_was_made_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_bytes
    monkeypatch.setattr(store, "write_bytes", lambda path, data: written(path, data[:-1]))
    with pytest.raises(UserError, match=r"right after it was computed: part-00000\..* damaged .*Is the disk failing\?"):
        open_bank(tiny_settings(), tmp_path, "a", CPU)
