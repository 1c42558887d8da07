"""Sweeps in processes that are killed and interrupted: nothing that was complete is lost, no verdict is another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def sweep(cache: Path, after: int) -> tuple[int, str, int]:
    """Sweep in a process that kills itself after so many epochs: its end, its verdicts, how many epochs it trained."""
    process = start("-m", "tests.support.grids", str(cache), str(after))
    out, err = process.communicate(timeout=120)
    assert process.returncode in {0, -signal.SIGKILL}, err
    *verdicts, last = out.splitlines() or ["0 epochs"]
    return process.returncode, "\n".join(verdicts), int(last.split()[0])


def test_a_sweep_that_is_killed_again_and_again_ends_as_if_undisturbed(tmp_path: Path) -> None:
    code, whole, epochs = sweep(tmp_path / "whole", 10**6)
    assert (code, epochs) == (0, 4 * 4 * 4 * 2)
    for _ in range(4):
        code, verdicts, trained = sweep(tmp_path / "cut", 60)
        if code == 0:
            break
    assert code == 0, "each process completes some trainings"
    assert trained <= 60
    assert verdicts == whole


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_what_is_kept(tmp_path: Path, number: int, code: int) -> None:
    process = start("-u", "-c", STARTED, "sweep", "--study", "formulas", "--device", "cpu", "--seeds", "2", "--cache",
                    str(tmp_path), "--set", "lr=0.02,0.08")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)
    told = process.communicate(timeout=120)[1]  # which ends its input
    assert process.returncode == code, told
    assert f"Stopped: 1 of 8 trainings are complete, in {tmp_path}/sweeps/formulas-formulas; the same command" in told
    assert "Traceback" not in told


# The command as it is, with a study that waits in its second training for the end of the input.
STARTED = """
import sys, time
from dataclasses import replace
from kvbench.cli import main
from kvbench.studies import registry
from tests.support import grids
def slow(configuration, seed, device):
    for row in grids.train(configuration, seed, device):
        if configuration.id == "momentum":
            print("training")
            sys.stdin.read()
            time.sleep(1)
        yield row
# Under the name of a module that lies in a file: the code of this program lies in none.
slow.__module__ = "tests.support.grids"
registry.BUILT_IN["formulas"] = replace(grids.STUDY, train=slow, workloads={"formulas": {}})
main()
"""
