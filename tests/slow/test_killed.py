"""Suites in processes of their own that are killed or stopped, and the same command again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, small
from tests.support.project import Project
from tests.support.resume import timeless
from tests.support.trials import trials

EPOCHS = 60  # more than any machine trains within a second
WORKLOAD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pytest
from tests.support.small import register
register(pytest.MonkeyPatch(), epochs={EPOCHS})
"""
WHICH = "test_configuration and Model1"  # both recipes
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
Suite = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def suite(run: Project, pytester: pytest.Pytester) -> Suite:
    """Start the suite on many epochs in a process of its own; there are banks already."""
    pytester.makeconftest(WORKLOAD)

    def start(*arguments: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", "-k", WHICH, *arguments]
        where = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            words, cwd=pytester.path, env=where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return start


def when_kept(project: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has kept a state."""
    while not list((project / ".kvbench").glob("checkpoints/*/*/*.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def histories(path: Path) -> list[dict[str, Any]]:
    """The rows of a saved run, without the seconds."""
    return timeless(path)


def left_aside(project: Path) -> list[str]:
    return [path.name for path in (project / ".kvbench").rglob(".*")]


def test_killed_again_and_again_it_ends_in_the_same_histories(suite: Suite, pytester: pytest.Pytester) -> None:
    draw = random.Random(5)
    for _ in range(trials(3)):
        process = suite()
        when_kept(pytester.path, process)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.communicate()
    told = suite("--benchmark-json=resumed.json").communicate()[0]
    assert "REUSED: " in told
    assert left_aside(pytester.path) == []
    told = suite("--benchmark-json=whole.json").communicate()[0]
    assert "REUSED" not in told
    assert histories(pytester.path / "resumed.json") == histories(pytester.path / "whole.json")
    assert len(histories(pytester.path / "whole.json")) == 2 * 2 * EPOCHS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_at_once_with_a_sentence_and_the_same_command_goes_on(
    suite: Suite, pytester: pytest.Pytester, number: int, code: int
) -> None:
    process = suite("--benchmark-save=stopped")
    when_kept(pytester.path, process)
    start = time.monotonic()
    process.send_signal(number)
    told = process.communicate()[0]
    assert time.monotonic() - start < 20  # under two on an idle machine
    assert process.returncode == code, told
    by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"kvbench: stopped by {by}; the same command goes on with what 1 training left." in told
    assert "Traceback" not in told
    assert left_aside(pytester.path) == []
    assert "lr_Model1 goes on at epoch " in suite().communicate()[0]


def stopped_at(pytester: pytest.Pytester, hook: str, number: int) -> None:
    """From now on the suite gets a signal when it comes to ``hook``, once."""
    few = WORKLOAD.replace(f"epochs={EPOCHS}", f"epochs={small.EPOCHS}")
    pytester.makeconftest(f"""{few}
import os, pathlib, pytest
def strike():
    mark = pathlib.Path("struck")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), {int(number)})
{hook}
""")


IN_AN_EPOCH = """
from kvbench.core.run import Run
chunks = Run.chunks
def struck(run):
    strike()
    return chunks(run)
Run.chunks = struck
"""
AT_THE_REPORT = """
from kvbench.reporting import report
made = report.report
def struck(*given, **more):
    strike()
    return made(*given, **more)
report.report = struck
"""
AT_THE_SAVE = """
@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_machine_info():
    strike()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("hook", [AT_THE_REPORT, AT_THE_SAVE], ids=["report", "save"])
def test_stopped_at_its_end_it_keeps_what_was_trained(
    suite: Suite, pytester: pytest.Pytester, hook: str, number: int, code: int
) -> None:
    stopped_at(pytester, hook, number)
    process = suite("--benchmark-json=stopped.json")
    told = process.communicate()[0]
    assert process.returncode == code, told
    by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"kvbench: stopped by {by}; the same command goes on with what 2 trainings left." in told
    assert "Traceback" not in told
    told = suite("--benchmark-json=whole.json").communicate()[0]
    assert "Model1 is reused, an earlier run finished it." in told
    assert len(histories(pytester.path / "whole.json")) == 2 * 2 * small.EPOCHS


def test_stopped_in_its_first_epoch_a_run_that_saves_ends_in_order(suite: Suite, pytester: pytest.Pytester) -> None:
    stopped_at(pytester, IN_AN_EPOCH, signal.SIGINT)
    process = suite("--benchmark-json=stopped.json")
    told = process.communicate()[0]
    assert process.returncode == 2, told
    assert "kvbench: stopped by Ctrl-C; " in told
    assert "Traceback" not in told
    assert histories(pytester.path / "stopped.json") == []


FRAMES = f"""{IN_AN_EPOCH}
@pytest.hookimpl(trylast=True)
def pytest_keyboard_interrupt(excinfo):
    pathlib.Path("frames").write_text(str(len(excinfo.traceback)))
"""


def test_a_stop_reads_no_source_for_a_traceback_that_is_not_shown(suite: Suite, pytester: pytest.Pytester) -> None:
    stopped_at(pytester, FRAMES, signal.SIGINT)
    assert "!!! kvbench.harness.interrupts.Stopped: Ctrl-C !!!" in suite().communicate()[0]
    assert int((pytester.path / "frames").read_text()) <= 3


def test_under_xdist_too(suite: Suite, pytester: pytest.Pytester) -> None:
    process = suite("-n2")
    when_kept(pytester.path, process)
    process.kill()
    process.communicate()
    told = suite("-n2").communicate()[0]
    assert "REUSED: " in told
    assert not (pytester.path / ".kvbench" / "checkpoints").exists(), "the session removes what its workers kept"
    assert "REUSED" not in suite("-n2").communicate()[0]
