"""What the shell completes, asked as bash asks it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from kvbench.mutation.faults import FAULTS
from kvbench.studies.kv_memory import STUDY
from kvbench.studies.registry import studies
from kvbench.workloads import WORKLOADS
from tests.support import EXPECTED
from tests.support.commands import Call
from tests.support.saved_runs import run_of
from tests.support.sides import runs

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(call: Call, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """The words that bash would offer for the last of these."""

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_KVBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", shlex.join(["kvbench", *words[:-1]]) + f" {words[-1]}")
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        told = call()
        assert (told.code, told.err) == (0, "")
        return told.out.split()

    return complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["report", "--study", ""], [*studies()]),
        (["report", "--study", "lin"], ["linear-probes"]),
        (["extract", "--workload", "f"], [name for name in WORKLOADS if name.startswith("f")]),
        (["extract", "--kvbench-workload", "tiny"], ["tiny-imagenet"]),
        (["extract", "--pooling", ""], ["global", "pyramid"]),
        (["extract", "--device", "c"], ["cpu", "cuda"]),
        (["train", "--engine", ""], ["local", "ray"]),
        (["report", "--expected", "f", "--finding", "gelu"], ["gelu-beats-relu"]),
        (["report", "--study", "linear-probes", "--finding", "gelu"], []),
        (["sweep", "--finding", "simple"], [name for name in STUDY.design.findings if name.startswith("simple")]),
        (["students", "Model"], [student.name for student in STUDY.students]),
        (["power", "--configuration", "lr_Model1"], ["lr_Model1"]),
        (["detect", "--fault", ""], sorted(FAULTS)),
        (["report", "--table", "val"], ["val_loss", "val_accuracy"]),
        (["report", "--format", ""], ["markdown", "csv", "latex"]),
        (["compare", "a", "b", "--format", ""], ["text", "markdown", "json", "csv", "latex"]),
        (["plot", "--chart", "time"], ["time-epochs", "time-seconds", "time-flops"]),
        (["cache", "list", "--kind", "b"], ["bank"]),
        (["report", "--study", "nothing", "--finding", ""], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_known_values_are_offered(words: list[str], offered: list[str], complete: Complete) -> None:
    found = complete(*words)
    assert (sorted(found) if words[-2] == "--fault" else found) == offered


def test_references_are_those_of_the_folder_and_those_that_come_with_kvbench(complete: Complete) -> None:
    assert {"fractals", "imagenet", "tiny-imagenet"} <= {*complete("report", "--expected", "")}
    for own in ("expected/fractals+lr=0.1", "elsewhere/mine/flowers"):
        Path(own).mkdir(parents=True)
        (Path(own) / "histories.csv").write_text("")
    assert complete("power", "--expected", "fractals+") == ["fractals+lr=0.1"]
    assert complete("expected", "rejudge", "--folder", "elsewhere", "flow") == ["flowers"]
    assert complete("expected", "rejudge", "--study", "mine", "--folder", "elsewhere", "flow") == ["flowers"]
    assert complete("report", "--study", "linear-probes", "--folder", str(EXPECTED), "--expected", "ima") == []
    assert "flowers" not in complete("report", "--expected", "")


def test_saved_runs_are_offered_by_name_by_number_and_as_files(complete: Complete) -> None:
    machine = Path(".benchmarks/Linux-CPython-3.11-64bit")
    machine.mkdir(parents=True)
    for stem in ("0001_main", "0002_twice", "0003_twice", "0004"):
        (machine / f"{stem}.json").write_text(json.dumps(run_of(runs(range(2)))))
    assert complete("compare", "mai") == ["main"]
    assert complete("compare", "main", "000") == ["0001_main", "0002_twice", "0003_twice", "0004"]
    assert complete("compare", "main", "tw") == [], "two have that name"
    assert complete("compare", "main", "fra") == ["fractals"]
    assert complete("report", ".benchmarks/Linux-CPython-3.11-64bit/0001") == [f"{machine}/0001_main.json"]
    assert complete("compare", "--storage", "nowhere", "mai") == []


def test_findings_of_another_study_are_not_offered_in_a_project_with_its_own(complete: Complete) -> None:
    assert complete("report", "--finding", "gelu") == ["gelu-beats-relu"]
    Path("conftest.py").write_text("raise SystemExit\n\n\ndef pytest_kvbench_studies():\n    return []\n")
    assert complete("report", "--finding", "gelu") == []
    assert complete("report", "--study", "kv-memory", "--finding", "gelu") == ["gelu-beats-relu"]
