"""Several processes and one bank: one makes it, the others wait, are told for whom, and open it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from kvbench.core.bank import FeatureBank
from kvbench.features.cache import open_bank
from kvbench.utils.errors import UserError
from kvbench.utils.locks import locked
from tests.support.banks import CPU, assert_equal, content, left, passes, tiny_settings
from tests.support.logs import logged


@pytest.mark.parametrize(
    ("written", "owner"),
    [
        ("", "another process"),
        ("[" * 100_000, "another process"),
        ("[3]", "another process"),
        ('{"pid": Infinity, "host": "a", "since": "2026-01-02T03:04:05+00:00"}', "another process"),
        ('{"pid": 1, "host": "a", "since": "0001-01-01T00:00:00+14:00"}', "another process"),
        ('{"pid": 1, "host": "a", "since": 3}', "another process"),
        (
            json.dumps({"pid": 1, "host": "\x1b[2J\x1b]0;evil\x07\r\n" + "a" * 10**6, "since": "2026-01-02T12:00:00"}),
            r"process 1 on \x1b[2J\x1b]0;evil\x07\r\n" + "a" * 185 + " since 2026-01-02 12:00",
        ),
    ],
    ids=range(7),
)
def test_who_holds_a_lock_is_told_in_one_line_whatever_its_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, owner: str
) -> None:
    monkeypatch.setattr("kvbench.utils.locks.PATIENCE", 0.01)
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").write_text(written)

    def release(_: object) -> bool:
        lock.release()
        return True

    monkeypatch.setattr("kvbench.utils.locks.logger.filters", [release])
    with logged() as messages, locked(tmp_path / "lock", "a"):
        assert messages == [f"a is being computed by {owner}; waiting."]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(
        UserError, match=r"^Cannot lock .*Choose a folder on a file system that has locks with --kvbench-cache\.$"
    ):
        open_bank(tiny_settings(20), tmp_path, "a", CPU)
    assert left(tmp_path) == []


def test_a_lock_that_is_denied_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match=r"^Cannot lock .*lock: Is a directory\.$"), locked(tmp_path / "lock", "a"):
        pass


def test_threads_of_one_process_share_a_bank_too(tmp_path: Path) -> None:
    every = [tiny_settings(300) for _ in range(4)]
    made: dict[int, FeatureBank] = {}

    def make(n: int) -> None:
        made[n] = open_bank(every[n], tmp_path, "a", CPU)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(len(every))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(passes(settings) for settings in every) == 3
    assert len(made) == len(every)
    for one in made.values():
        assert_equal(one, made[0])
    assert content(tmp_path)
