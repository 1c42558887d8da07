"""Banks in a cache: made once, gone on with after a kill, never more in memory than a few shards."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kvbench.features import cache
from kvbench.features.cache import open_bank
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from tests.support.banks import (
    CPU,
    ROWS,
    TEN,
    assert_equal,
    in_memory,
    left,
    passes,
    tiny_settings,
    tiny_teacher,
)

pytestmark = pytest.mark.usefixtures("small_shards")
COUNT = 600  # four shards of 128 rows and one of 88
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of a process")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, ROWS, ROWS + 1, COUNT])
def test_a_bank_on_disk_is_what_one_pass_gives(count: int, precision: str, tmp_path: Path) -> None:
    settings = tiny_settings(count, precision=precision)
    reports: list[Progress] = []
    made = open_bank(settings, tmp_path, "a", CPU, reports.append)
    assert_equal(made, in_memory(settings))
    assert reports[-1] == ("a: teacher pass", count, count, "image")
    assert left(tmp_path) == [".safetensors"]
    columns = load_file(settings.path(tmp_path, "a"))
    assert set(columns) == {"labels", "logits", "tap0", "tap1"}, "safetensors reads it, too"
    assert torch.equal(columns["tap1"], made.taps[1])


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
    back = open_bank(tiny_settings(), tmp_path, "a", CPU).to(CPU)
    mapped = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(tiny_settings().path(tmp_path, "a")))
    ]
    for tensor in (*back.taps, back.logits, back.labels):
        assert any(start <= tensor.data_ptr() < end for start, end in mapped)
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_a_bank_of_other_settings_names_what_differs(tmp_path: Path) -> None:
    settings = tiny_settings(20)
    open_bank(settings, tmp_path, "a", CPU)
    wanted = replace(settings, pooling="pyramid", taps=("second", "first"))
    settings.path(tmp_path, "a").rename(wanted.path(tmp_path, "a"))
    with pytest.raises(
        UserError, match=r"a-\w+\.safetensors was computed with other settings \(pooling, taps\): remove it"
    ):
        open_bank(wanted, tmp_path, "a", CPU)
    assert left(tmp_path) == [".safetensors"], "a user's file is not removed for them"


def test_what_makes_no_pass_leaves_nothing(tmp_path: Path) -> None:
    for settings, told in [
        (tiny_settings(taps=("first", "third")), r"No tap 'third'"),
        (tiny_settings(taps=("second", "first")), r"give first,second"),
        (tiny_settings(teacher=tiny_teacher(names=(*TEN[:9], "cat"))), r"not among them; only in the data: ifs0009"),
    ]:
        with pytest.raises(UserError, match=told):
            open_bank(settings, tmp_path / "cache", "a", CPU)
    assert list(tmp_path.iterdir()) == []


# Room


def test_a_disk_that_is_too_small_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    settings = tiny_settings(COUNT)
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes, and 1,000 are free .*--kvbench-cache"):
        open_bank(settings, tmp_path, "a", CPU)
    assert passes(settings) == 1
    assert left(tmp_path) == []


def test_a_bank_that_is_bad_right_after_it_was_made_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "damaged", lambda *_: [0])
    with pytest.raises(UserError, match=r"right after it was computed: shard 1 .* is damaged\. Is the disk failing\?"):
        open_bank(tiny_settings(), tmp_path, "a", CPU)
