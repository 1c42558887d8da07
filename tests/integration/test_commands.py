"""Commands as processes: what they import, print and end with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import EXPECTED, ROOT


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    "command", ["--help", "report --help", "extract --help", "teacher train --help", "report --expected imagenet"]
)
def test_help_and_report_import_no_torch(command: str) -> None:
    code = (
        "import sys; sys.argv = ['kvbench', *sys.argv[1:]]\n"
        "from kvbench.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    result = python("-c", code, *command.split())
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(result.stdout) > 100


@pytest.mark.parametrize("words", ["report --expected f", "report --finding g", "detect --fault lr", "compare f"])
def test_completion_imports_no_torch(words: str) -> None:
    code = (
        "import os, sys; sys.argv = ['kvbench']; given = " + repr(words) + "\n"
        "os.environ |= {'_KVBENCH_COMPLETE': 'complete_bash', 'COMP_WORDS': f'kvbench {given}'}\n"
        "os.environ['COMP_CWORD'] = str(len(given.split()))\n"
        "from kvbench.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'torchvision', 'pytest'} & sys.modules.keys()"
    )
    result = python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(word.startswith(words.rsplit(maxsplit=1)[-1]) for word in result.stdout.split())
    assert result.stdout


def test_help_names_every_command() -> None:
    result = python("-m", "kvbench", "--help")
    assert result.returncode == 0
    assert all(re.search(rf"\b{name}\b", result.stdout) for name in ("report", "students", "extract", "teacher"))


def test_a_process_ends_with_code_2_and_one_sentence() -> None:
    result = python("-m", "kvbench", "report", "--expected", "imagnet")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "imagenet" in result.stderr
    assert "Traceback" not in result.stderr


def test_reporting_imports_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from kvbench.reporting.contents import of_expected;"
        "from kvbench.reporting.html import page; from kvbench.studies.kv_memory import STUDY;"
        f"made = of_expected(Path({str(EXPECTED)!r}), 'imagenet', STUDY.design); made.markdown(); page(made);"
        "print([name for name in ('torch', 'scipy.stats', 'pytest', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_what_the_same_command_does(tmp_path: Path, number: int, code: int) -> None:
    words = [sys.executable, "-u", "-c", STARTED, "teacher", "train", "--out", "teacher.safetensors", "--device", "cpu",
             "--set", "count=10000"]  # fmt: skip
    process = subprocess.Popen(
        words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == code, told
    assert "Stopped: the same command starts over." in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


# The command as it is, saying when it trains.
STARTED = """
import kvbench.features.train_teacher as t
from kvbench.cli import main
steps = t.batches
def told(images, batch_size, *given, **more):
    if batch_size > 1:  # not the look at the first image
        print("training")
    return steps(images, batch_size, *given, **more)
t.batches = told
main()
"""
