"""Commands that are stopped from outside end in order, with the code that shells expect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import ROOT

from kvbench.stopping import on_sigterm

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_what_the_same_command_does(tmp_path: Path, number: int, code: int) -> None:
    words = [sys.executable, "-u", "-c", STARTED, "teacher", "train", "--out", "teacher.safetensors", "--device", "cpu"]
    process = subprocess.Popen(
        words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)
    told = process.communicate()[1]
    assert process.returncode == code, told
    assert "Stopped: the same command starts over." in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


# The command as it is, saying when it trains.
STARTED = """
import kvbench.teacher_training as t
from kvbench.cli import main
steps = t.batches
def told(*given):
    print("training")
    return steps(*given)
t.batches = told
main()
"""


def test_the_handler_is_there_inside_the_block_alone() -> None:
    class Ended(BaseException):
        pass

    def end() -> NoReturn:
        raise Ended

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Ended), on_sigterm(end):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with on_sigterm(end):
            os.kill(os.getpid(), signal.SIGTERM)  # whose handler is set keeps it
        assert mine == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
