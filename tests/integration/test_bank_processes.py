"""Several processes and one bank: what two at once make, what a killed one leaves, and how much memory it takes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.utils.progress import Progress
from tests.support import ROOT
from tests.support.banks import (
    CPU,
    ROWS,
    assert_equal,
    content,
    left,
    open_bank,
    other_process,
    passes,
    tiny_settings,
)
from tests.support.logs import logged

pytestmark = pytest.mark.usefixtures("small_parts")
COUNT = 600  # four parts of 128 rows and one of 88
WHOLE = ["manifest", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("act", "after", "done", "precision"),
    [
        ("kill", 3 * ROWS - 1, 3, "bfloat16"),  # progress is heard when its part is on the disk
        ("fsync", 2, 1, "float32"),  # the second part's data are written, and it has no name
        ("replace", 3, 2, "float32"),
        ("replace", 6, 5, "float32"),  # all is there, apart from the manifest
    ],
)
def test_a_killed_pass_goes_on_at_the_last_whole_part(
    act: str, after: int, done: int, precision: str, tmp_path: Path
) -> None:
    settings = tiny_settings(COUNT, precision=precision)
    undisturbed = open_bank(settings, tmp_path / "undisturbed", "a", CPU)
    killed = other_process(tmp_path / "killed", COUNT, precision, act, after)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [name for name in left(tmp_path / "killed") if not name.startswith(".")] == WHOLE[1 : 1 + done]
    again, reports = tiny_settings(COUNT, precision=precision), list[Progress]()
    with logged() as messages:
        resumed = open_bank(again, tmp_path / "killed", "a", CPU, reports.append)
    assert messages == [f"a: resuming after {done * ROWS} of {COUNT} images."][: done < 5]
    assert passes(again) == 5 - done
    assert [report.done for report in reports[:1]] == [done * ROWS][: done < 5]
    assert_equal(resumed, undisturbed)
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert left(tmp_path / "killed") == WHOLE, "nor is a file left that was being written"


def test_processes_at_once_make_one_bank(tmp_path: Path) -> None:
    """The first stops in the middle until the second is through; then a third finds all done."""
    first = other_process(tmp_path, COUNT, "float32", "wait", 200)
    assert first.stdout is not None
    assert first.stdout.readline() == "waiting\n"
    second = other_process(tmp_path, COUNT)
    told, _ = second.communicate(timeout=60)
    assert told.endswith(f"{COUNT} rows in 3 passes\n"), told
    assert first.communicate("\n", 60)[0] == f"{COUNT} rows in 5 passes\n"
    assert left(tmp_path) == WHOLE
    third = tiny_settings(COUNT)
    here = open_bank(tiny_settings(COUNT), tmp_path.with_name("here"), "a", CPU)
    assert_equal(open_bank(third, tmp_path, "a", CPU, verify=True), here)
    assert passes(third) == 0
    assert content(tmp_path) == content(tmp_path.with_name("here"))


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of a process")


@LINUX
def test_memory_stays_bounded_however_large_the_bank(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.wide_bank", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, size = map(int, told.stdout.split())
    assert size > 300e6
    assert grown < size / 2, f"{grown:,} of {size:,} bytes"
