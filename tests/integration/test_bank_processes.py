"""Several processes and one bank: who waits, what a killed one leaves, and how much memory a large bank takes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kvbench.features.cache import open_bank
from kvbench.utils.locks import locked
from kvbench.utils.progress import Progress
from tests.support import ROOT
from tests.support.banks import CPU, ROWS, assert_equal, content, left, other_process, passes, tiny_settings
from tests.support.logs import logged

HOLDER = """
import sys, time
from pathlib import Path
from kvbench.utils.locks import locked
with locked(Path(sys.argv[1]), "a"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_waits_is_told_once_who_holds_it_and_gets_it_after(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    ending = threading.Timer(1.5, lambda: process.communicate("\n"))
    ending.start()
    started = time.monotonic()
    with logged() as messages, locked(tmp_path / "lock", "fractals-train"):
        assert time.monotonic() - started > 1
        ending.join(10)
        assert process.returncode == 0
    pattern = rf"fractals-train is being computed by process {process.pid} on \S+ since \d\d:\d\d; waiting\."
    assert len(messages) == 1
    assert re.fullmatch(pattern, messages[0]), messages


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    process.kill()
    process.communicate()
    with logged() as messages, locked(tmp_path / "lock", "a"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert messages == []
    assert (tmp_path / "lock").read_text() == ""


def test_two_processes_at_once_make_one_bank_with_one_pass(tmp_path: Path) -> None:
    """The first stops in the middle until the second has said that it waits."""
    first = other_process(tmp_path, 512, "float32", "wait", 200)
    assert first.stdout is not None
    assert first.stdout.readline() == "waiting\n"
    second = other_process(tmp_path, 512)
    assert second.stdout is not None
    told = second.stdout.readline()
    assert re.fullmatch(rf"a is being computed by process {first.pid} on \S+ since \d\d:\d\d; waiting\.\n", told), told
    assert first.communicate("\n", 60)[0] == "512 rows in 4 passes\n"
    assert second.communicate(timeout=60)[0] == "512 rows in 0 passes\n"
    assert left(tmp_path) == [".safetensors"]


pytestmark = pytest.mark.usefixtures("small_shards")


COUNT = 600  # four shards of 128 rows and one of 88


@pytest.mark.parametrize(
    ("act", "after", "done", "precision"),
    [
        ("kill", 3 * ROWS - 1, 3, "bfloat16"),  # a tick is heard when its batch is on the disk
        ("pwrite", 4 + 2, 1, "float32"),  # in the middle of the second shard, of four columns
        ("fsync", 2 + 2 * 2 + 1, 2, "float32"),  # the third shard's data are there, and not recorded
        ("replace", 1, 5, "float32"),  # all is there, apart from the name
    ],
)
def test_a_killed_pass_goes_on_at_the_last_whole_shard(
    act: str, after: int, done: int, precision: str, tmp_path: Path
) -> None:
    settings = tiny_settings(COUNT, precision=precision)
    undisturbed = open_bank(settings, tmp_path / "undisturbed", "a", CPU)
    killed = other_process(tmp_path / "killed", COUNT, precision, act, after)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert left(tmp_path / "killed") == [".journal", ".partial"]
    again, reports = tiny_settings(COUNT, precision=precision), list[Progress]()
    with logged() as messages:
        resumed = open_bank(again, tmp_path / "killed", "a", CPU, reports.append)
    assert messages == [f"a: resuming after {min(done * ROWS, COUNT)} of {COUNT} images."]
    assert passes(again) == 5 - done
    assert not reports or reports[0].done == done * ROWS
    assert not reports or reports[-1] == ("a: teacher pass", COUNT, COUNT, "image")
    assert_equal(resumed, undisturbed)
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert left(tmp_path / "killed") == [".safetensors"]


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of a process")


@LINUX
def test_memory_stays_bounded_however_large_the_bank(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.wide_bank", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, size = map(int, told.stdout.split())
    assert size > 300e6
    assert grown < size / 2, f"{grown:,} of {size:,} bytes"
