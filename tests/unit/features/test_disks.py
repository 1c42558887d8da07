"""Disks under a bank that fail, fill up, cannot be written, or do a part of what they are asked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kvbench.features.cache import open_bank
from kvbench.utils.errors import UserError
from tests.support.banks import CPU, assert_equal, fail, in_memory, left, passes, tiny_settings

pytestmark = pytest.mark.usefixtures("small_shards")
COUNT = 300  # shards of 128, 128 and 44 rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole bank."""
    settings = tiny_settings(COUNT)
    open_bank(settings, tmp_path, "a", CPU)
    return settings.path(tmp_path, "a")


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_a_disk_that_cannot_be_read_is_told(after: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "pread", errno.EIO, after)
    with pytest.raises(UserError, match=r"^Cannot read .*safetensors: Input/output error\. Remove it"):
        open_bank(tiny_settings(COUNT), path.parent, "a", CPU)


@pytest.mark.parametrize(("name", "after"), [("pwrite", 0), ("pwrite", 6), ("fsync", 1), ("fsync", 5), ("replace", 0)])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_be_written_is_told_and_what_is_done_stays(
    name: str, after: int, number: int, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as broken:
        fail(broken, name, number, after)
        with pytest.raises(UserError, match=rf"^Cannot write .*safetensors: {os.strerror(number)}\.$"):
            open_bank(tiny_settings(COUNT), tmp_path, "a", CPU)
    done = {("pwrite", 6): 1, ("fsync", 5): 2, ("replace", 0): 3}.get((name, after), 0)
    assert left(tmp_path) == ([".journal", ".partial"] if done else [])
    settings = tiny_settings(COUNT)
    assert_equal(open_bank(settings, tmp_path, "a", CPU), in_memory(tiny_settings(COUNT)))
    assert passes(settings) == 3 - done


def test_reads_and_writes_of_a_part_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite, write = os.pread, os.pwrite, os.write
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, -(-length // 2), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: -(-len(data) // 2)], at))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: -(-len(data) // 2)]))
    settings = tiny_settings(COUNT)
    for _ in range(2):
        assert_equal(open_bank(settings, tmp_path, "a", CPU), in_memory(tiny_settings(COUNT)))
    assert passes(settings) == 3
    assert left(tmp_path) == [".safetensors"]
