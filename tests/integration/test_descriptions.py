"""What only describes a run cannot end or fail it; and what users, plugins and settings bring along."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from kvbench.core.cost import Cost
from kvbench.results.saved import Outcome, read
from kvbench.utils.progress import ProgressBar
from tests.support import tiny
from tests.support.sessions import Drawn, TinyProject, suite_of
from tests.support.tiny import register_student

NAMES = ("Model3", "Model4", "Model5", "Model6", "lr_Model3", "lr_Model4", "lr_Model5", "lr_Model6")
SUITE = suite_of(NAMES, ["gelu-beats-relu"])


def _broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("this describes\nnothing")


@pytest.mark.parametrize(
    ("what", "warning"),
    [
        ("kvbench.harness.record.cost", "count the cost of Model3: RuntimeError: this describes"),  # the first line
        ("kvbench.harness.record.environment", "look up versions and hardware"),
        ("kvbench.utils.environment.code", "keep the states of unfinished trainings"),
        ("kvbench.reporting.report.report", "write the report to "),
        ("kvbench.harness.summary.write_text", "write the report to "),
        ("kvbench.reporting.contents.timings", "compare seconds with the reference's"),
        ("kvbench.harness.summary.differences", "complete the summary"),
        ("kvbench.harness.summary.saved.reused", "complete the summary"),
        ("kvbench.utils.progress.ProgressBar.show", "show the progress"),
        ("kvbench.utils.progress.ProgressBar.clear", "tidy up what was shown of the training"),
        ("kvbench.utils.progress.ProgressBar.close", "remove the progress bar"),
    ],
)
def test_what_describes_a_run_fails_as_a_warning(project: TinyProject, what: str, warning: str) -> None:
    code, result = project.run(SUITE, disturb=lambda patch: patch.setattr(what, _broken))
    assert code == 0, project.stdout
    assert result is not None
    assert {check.outcome for check in result.checks.values()} <= {Outcome.PASSED, Outcome.NOT_CONFIRMED}
    assert any(message.startswith(f"Could not {warning}") for message in project.logged), project.logged
    assert "Traceback" not in project.stdout


def test_a_terminal_that_takes_nothing_fails_nothing(project: TinyProject) -> None:
    def disturb(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("kvbench.harness.record.cost", _broken)
        patch.setattr(ProgressBar, "print", _broken)

    assert project.run(suite_of(["Model1"], []), disturb=disturb)[0] == 0


def test_costs_that_are_not_known_are_left_out_of_references_and_saves(project: TinyProject) -> None:
    def disturb(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("kvbench.harness.record.cost", lambda *_: Cost(None, None, None))

    assert project.run(SUITE, "--kvbench-update-expected", "--benchmark-json=run.json", disturb=disturb)[0] == 1
    assert "This run fails by design" in project.stdout
    assert not read(project.path / "run.json").costs


def test_a_student_that_cannot_be_made_fails_its_own_test(project: TinyProject) -> None:
    def disturb(patch: pytest.MonkeyPatch) -> None:
        register_student(patch, replace(tiny.STUDY.student("Model1"), taps=(-9,)))

    code, result = project.run(suite_of(["Model1", "Model2"], []), disturb=disturb)
    assert code == 1
    assert result is not None
    assert [result.checks[name].outcome for name in ("Model1", "Model2")] == [Outcome.INCOMPLETE, Outcome.PASSED]
    assert "Model1 reads the taps -9, there are 3" in project.stdout


def test_a_missing_reference_is_one_sentence(project: TinyProject) -> None:
    shutil.rmtree(project.path / "expected")
    code, result = project.run(suite_of(["Model1"], ["gelu-beats-relu"]))
    assert code == 1
    assert result is not None
    assert "There is no reference for tiny in" in project.stdout
    assert "During handling" not in project.stdout
    assert "Traceback" not in project.stdout + project.stderr


def test_diverging_is_one_sentence(project: TinyProject) -> None:
    plain = tiny.STUDY.student("Model1")
    make = plain.make
    assert make is not None

    def disturb(patch: pytest.MonkeyPatch) -> None:
        import torch
        from torch import nn

        class Infinite(nn.Module):
            def __init__(self, inner: nn.Module):
                super().__init__()
                self.inner = inner

            def forward(self, xs: Any) -> Any:
                return self.inner(xs) * (torch.inf if self.training else 1)

        register_student(patch, replace(plain, make=lambda d, k: Infinite(make(d, k))))

    code, result = project.run(suite_of(["Model1"], []), disturb=disturb)
    assert code == 1
    assert result is not None
    assert "During handling" not in project.stdout


# What users and other plugins bring along


def _again(project: TinyProject, fixture: str) -> None:
    (project.path / "benchmarks" / "conftest.py").write_text(fixture)
    (project.path / "benchmarks" / "test_more.py").write_text(
        "def test_again(benchmark, kvbench_training, kvbench_compare):\n"
        "    benchmark(kvbench_training.epoch)\n"
        "    kvbench_training.evaluate()\n"
        "    kvbench_compare(kvbench_training)\n"
    )


def test_a_fixture_that_only_calls_is_taken(project: TinyProject) -> None:
    _again(project, "import pytest\n@pytest.fixture\ndef benchmark():\n    return lambda function: function()\n")
    assert project.run(Drawn(0, ("test_again[Model1]",)), "-p", "no:benchmark")[0] == 0, project.stdout


def test_a_fixture_without_groups_is_taken(project: TinyProject) -> None:
    _again(  # as pytest-codspeed's, which passes for pytest-benchmark's and has none of its attributes
        project,
        "import pytest\nfrom pytest_benchmark.fixture import BenchmarkFixture\n"
        "class Other(BenchmarkFixture):\n    __slots__ = ()\n    def __init__(self):\n        pass\n"
        "    def __call__(self, function):\n        return function()\n"
        "@pytest.fixture\ndef benchmark():\n    return Other()\n",
    )
    assert project.run(Drawn(0, ("test_again[Model1]",)))[0] == 0, project.stdout


def test_without_a_fixture_called_benchmark_trainings_are_compared(project: TinyProject) -> None:
    code, result = project.run(Drawn(0, ("test_again[Model1]",)), "-p", "no:benchmark", "-W", "error")
    assert code == 0, project.stdout
    assert result is not None
    assert result.checks["Model1"].outcome is Outcome.PASSED


@pytest.mark.parametrize("switch", ["-Werror", "ini"])
def test_warnings_that_are_errors_fail_nothing(project: TinyProject, switch: str) -> None:
    if switch == "ini":
        with (project.path / "tox.ini").open("a") as ini:
            ini.write("\nfilterwarnings = error\n")
    code, _ = project.run(SUITE, *(["-W", "error"] if switch != "ini" else []))
    assert code == 0, project.stdout
    assert "warnings summary" not in project.stdout


@pytest.mark.parametrize("arguments", [("--kvbench-seeds", "x"), ("--kvbench-cache", ""), ("--kvbench-pooling", "max")])
def test_options_are_a_sentence_or_the_default(project: TinyProject, arguments: tuple[str, str]) -> None:
    code, _ = project.run(suite_of(["Model1"], []), *arguments)
    assert code == (0 if arguments[1] == "" else pytest.ExitCode.USAGE_ERROR)
    assert "Traceback" not in project.stdout + project.stderr


def test_a_worker_that_crashes_updates_no_reference(project: TinyProject) -> None:
    (project.path / "benchmarks" / "test_more.py").write_text("import os\ndef test_crash():\n    os._exit(3)\n")
    before = (project.path / "expected" / "tiny" / "histories.csv").read_bytes()
    drawn = Drawn(0, (*suite_of(["Model1", "Model2"], []).tests, "test_crash"), workers=2)
    code, _ = project.run(drawn, "--kvbench-update-expected")
    assert code != 0
    assert (project.path / "expected" / "tiny" / "histories.csv").read_bytes() == before
    assert "References NOT updated: a test failed." in project.stdout
