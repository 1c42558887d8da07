"""The plugin, run as a user runs it: in another project's folder, on a small workload."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kvbench.core import losses
from kvbench.core.run import Run
from kvbench.reference.update import rejudge
from kvbench.studies import registry
from tests.support import ROOT, small
from tests.support.project import Project, counts, said, shift_losses
from tests.support.small import EPOCHS, LR, register


@pytest.fixture
def tripled(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the loss, as a fault, once the reference is there."""
    plain = losses.distillation_loss
    monkeypatch.setattr(losses, "distillation_loss", lambda *inputs: 3 * plain(*inputs))


def test_a_whole_run_passes_is_saved_and_is_reported(run: Project, pytester: pytest.Pytester) -> None:
    result = run("--benchmark-save=first")
    counts(result, failed=0, errors=0)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*kvbench: small*",
            "Curves: 14 of 14 configurations are as recorded (2 of the reference's 6 seeds).",
            "Findings: 15 of 15 verdicts are as recorded.",
            "finding  *recipe  *verdict  *",
            "simple-converges-faster  StepLR *, as recorded *",
            "Seconds an epoch of a seed: * to *",
            "Report, with all tables and clauses: .kvbench/report-small.md",
        ]
    )
    screen = result.stdout.str().partition("kvbench: small")[2]
    assert screen.count("\n") <= 30  # pytest-benchmark's own lines and pytest's last one among them
    assert max(map(len, screen.splitlines()[1:-1])) <= 100
    assert "Legend" not in screen
    report = (pytester.path / ".kvbench" / "report-small.md").read_text()
    assert report.startswith("# kvbench: small\n\nThis run passed.")
    assert all(part in report for part in ("Training loss", "| lr_Model1 ", "Validation accuracy", "p = "))
    unsettled = result.parseoutcomes().get("xfailed", 0)
    assert ("NOT CONFIRMED" in result.stdout.str()) == (unsettled > 0)
    (saved,) = (pytester.path / ".benchmarks").glob("*/0001_first.json")
    content = json.loads(saved.read_text())
    assert content["kvbench"] == {"workload": "small", "outcome": "passed", "reasons": []}
    assert len(content["benchmarks"]) == 14
    for benchmark in content["benchmarks"]:
        assert benchmark["stats"]["rounds"] == EPOCHS
        record = benchmark["extra_info"]["kvbench"]
        assert [(row["seed"], row["epoch"]) for row in record["history"]] == [(s, e) for s in (0, 1) for e in (1, 2, 3)]
        # A round is one epoch of every seed: what pytest-benchmark timed is what the histories say.
        total = sum(row["seconds"] for row in record["history"])
        assert 0 < total <= 2 * benchmark["stats"]["total"]  # two seeds, at most side by side
    told = subprocess.run(
        [sys.executable, "-m", "kvbench", "report", str(saved)], capture_output=True, text=True, check=True
    )
    assert "This run passed" in told.stdout
    assert "| lr_Model7" in told.stdout


def test_a_selection_trains_that_alone_and_a_finding_that_lacks_trainings_fails(run: Project) -> None:
    result = run("-k", "test_configuration and Model1 or scheduler-helps")
    counts(result, passed=2, failed=1)
    told = said(result)
    assert "scheduler-helps was not judged, as the session lacks complete trainings of StepLR against constant" in told
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_second_run_makes_no_teacher_pass(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the teacher ran again")

    monkeypatch.setattr("kvbench.features.extract.passing", refuse)
    counts(run("-k", "[Model1]"), passed=1, failed=0)


def test_a_damaged_bank_is_told_under_pytests_capture_and_mended(run: Project, pytester: pytest.Pytester) -> None:
    (path,) = (pytester.path / ".kvbench").glob("small-val-*/part-00000.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = run("-k", "[Model1]")
    counts(result, passed=1, failed=0)
    result.stderr.fnmatch_lines(
        [f"Warning: small-val: {path.parent}: part-00000.safetensors (images 1 to 100) damaged (*); computed again."]
    )
    assert path.read_bytes() == whole


@pytest.mark.parametrize("switch", ["--benchmark-disable", "-n2", "--benchmark-cprofile=cumtime"])
def test_however_it_is_run_training_ends_and_is_compared(run: Project, pytester: pytest.Pytester, switch: str) -> None:
    if switch == "-n2":
        # Workers are processes of their own: they learn of the small workload as a user's would.
        pytester.makeconftest(
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "import pytest\nfrom tests.support.small import register\nregister(pytest.MonkeyPatch())\n"
        )
    shift_losses(pytester.path, "lr_Model1", 20)
    result = run("-k", "test_configuration and Model1", switch)
    counts(result, passed=1, failed=1)
    result.stdout.fnmatch_lines(["lr_Model1 on small: train_loss, * is outside the reference: *"])


def test_benchmark_only_still_judges_the_findings(run: Project, pytester: pytest.Pytester) -> None:
    path = pytester.path / "expected" / "small" / "verdicts.csv"
    path.write_text(path.read_text().replace(",holds,", ",fails,"))
    result = run("--benchmark-only", "--kvbench-seeds", "6")
    counts(result, passed=14, skipped=8)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "FAILED at the end of the session: " in said(result)
    assert ": recorded as fails, now holds" in said(result)


def test_benchmark_skip_leaves_everything_out(run: Project) -> None:
    result = run("--benchmark-skip")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    counts(result, deselected=22, passed=0)


@pytest.mark.usefixtures("tripled")
def test_a_moved_curve_fails_with_numbers_and_how_to_update_and_the_save_says_so(
    run: Project, pytester: pytest.Pytester
) -> None:
    result = run("-k", "[Model1]", "--benchmark-json=run.json")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(
        [
            "Model1 on small: train_loss, * is outside the reference: *, recorded *",
            "  (+*%), allowed * to *; so are * more of 5 numbers.",
            "Curves: 0 of 1 configurations are as recorded (2 of the reference's 6 seeds).",
            "WHERE TO LOOK: 1 of 1 configurations drifted. Look first at Model1, the one student that drifted.",
            "*--kvbench-update-expected*",
            "All numbers of what failed are in the report, and here with -v.",
        ]
    )
    assert result.stdout.str().partition("FAILURES")[2].count("\n") < 25
    saved = json.loads((pytester.path / "run.json").read_text())
    (benchmark,) = saved["benchmarks"]
    assert benchmark["extra_info"]["kvbench"]["compared"]
    assert "train_loss" in benchmark["extra_info"]["kvbench"]["drifted"]
    assert saved["kvbench"]["outcome"] == "failed"
    assert "test_configuration[Model1]" in saved["kvbench"]["reasons"][0]
    verbose = run("-k", "[Model1]", "-v")
    verbose.stdout.fnmatch_lines([">>  train_loss, last epoch*DRIFTED", "| Model1  *", "*Legend:*"])


@pytest.mark.parametrize("asked", ["--benchmark-columns=median", "--benchmark-sort=name", "--benchmark-verbose"])
def test_pytest_benchmarks_table_is_there_where_something_is_asked_of_it(run: Project, asked: str) -> None:
    result = run("-k", "[Model1]", asked)
    counts(result, passed=1, failed=0)
    result.stdout.fnmatch_lines(["*benchmark 'small: an epoch of 2 seeds': 1 tests*", "Legend:"])


def test_the_table_of_other_benchmarks_stays(run: Project, pytester: pytest.Pytester) -> None:
    (pytester.path / "benchmarks" / "test_others.py").write_text("def test_other(benchmark):\n    benchmark(int)\n")
    result = run("-k", "[Model1] or test_other")
    counts(result, passed=2, failed=0)
    result.stdout.fnmatch_lines(["test_other *"])


@pytest.mark.usefixtures("tripled")
def test_lines_are_red_where_a_terminal_has_colours(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mWHERE TO LOOK: " in run("-k", "[Model1]", "--color=yes").stdout.str()
    monkeypatch.setenv("NO_COLOR", "1")
    bare = run("-k", "[Model1]").stdout.str()
    assert "WHERE TO LOOK: " in bare
    assert "\x1b" not in bare


def test_a_change_far_below_the_spread_of_seeds_fails_seeds_that_the_reference_has(run: Project) -> None:
    slight = ("-k", "[Model3]", "--kvbench-seeds")
    counts(run(*slight, "2"), passed=1, failed=0)
    plain = F.gelu
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "gelu", lambda x: 1.005 * plain(x))
        result = run(*slight, "2", "-v")
        counts(result, failed=1)
        result.stdout.fnmatch_lines(["*each with its own recorded run*(6 replicates)*"])
        counts(run(*slight, "20:22"), passed=1, failed=0)  # new seeds differ by more


def test_another_recipe_is_named_instead_of_compared(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, lr=3 * LR)
    result = run("-k", "[Model1]")
    counts(result, failed=1)
    assert "made from something else than the reference: recipe lr (0.009, recorded 0.003)." in said(result)


def test_a_vanished_row_fails(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Run.evaluation
    monkeypatch.setattr(Run, "evaluation", lambda run: iter(()) if run.epochs_done == 2 else evaluation(run))
    result = run("-k", "[Model1]")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(["*lacks seed 0, epoch 2*"])


def test_a_student_that_is_recorded_and_gone_fails(
    run: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = small.study()
    students = tuple(student for student in row.students if student.name != "Model6")
    findings = tuple(finding for finding in row.findings if "Model6" not in finding.names)
    less = replace(row, students=students, findings=findings)
    rejudge(pytester.path / "expected", "small", less.design)
    monkeypatch.setitem(registry.BUILT_IN, row.name, less)
    result = run("-k", "test_configuration")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*Model6 is in the reference but was not run*"])


def test_a_diverging_run_is_told_by_configuration_seed_and_epoch(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses.distillation_loss
    monkeypatch.setattr(losses, "distillation_loss", lambda *inputs: plain(*inputs) * float("nan"))
    result = run("-k", "[Model1]")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(["*training loss of Model1 (seed 0) is nan in epoch 1*"])


def test_a_missing_reference_fails_writes_nothing_and_says_how_to_make_one(
    run: Project, pytester: pytest.Pytester
) -> None:
    shutil.rmtree(pytester.path / "expected")
    result = run("-k", "[Model1]")
    counts(result, failed=1)
    assert re.search(
        "There is no reference for small in .* To record one: pytest benchmarks/ .*-update-expected", said(result)
    )
    assert not (pytester.path / "expected").exists()


def test_the_expected_folder_can_be_named(run: Project, pytester: pytest.Pytester) -> None:
    (pytester.path / "expected").rename(pytester.path / "elsewhere")
    counts(run("-k", "[Model1]", "--kvbench-expected", "elsewhere"), passed=1, failed=0)


def test_an_update_shows_the_difference_keeps_the_rest_and_fails(run: Project, pytester: pytest.Pytester) -> None:
    path = pytester.path / "expected" / "small" / "histories.csv"
    before = path.read_text().splitlines()
    result = run("-k", "[Model1]", "--kvbench-update-expected", "--kvbench-seeds", "2:5")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*fails by design*", "*changed  Model1: train_loss * -> *(n = 3)*"])
    after = path.read_text().splitlines()
    assert [line for line in before if not line.startswith("Model1,")] == [
        line for line in after if not line.startswith("Model1,")
    ]
    assert {line.split(",")[1] for line in after if line.startswith("Model1,")} == {"2", "3", "4"}


def test_a_failed_run_updates_nothing(run: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (pytester.path / "expected" / "small" / "histories.csv").read_text()
    plain = losses.distillation_loss
    monkeypatch.setattr(losses, "distillation_loss", lambda *inputs: plain(*inputs) * float("nan"))
    result = run("-k", "[Model1]", "--kvbench-update-expected")
    result.stdout.fnmatch_lines(["*References NOT updated*"])
    assert (pytester.path / "expected" / "small" / "histories.csv").read_text() == before


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("workload", "fractal", "Unknown workload 'fractal'. Did you mean fractals?"),
        ("device", "gpu", "Unknown device 'gpu'.*Valid: auto, cpu, cuda"),
        ("seeds", "none", "Cannot read the seeds 'none'"),
        ("seeds", "0", "Cannot read the seeds '0'"),
        ("pooling", "max", "Unknown pooling 'max'*Valid: global, pyramid"),
        ("precision", "half", "Unknown precision 'half'*Valid: float32, bfloat16"),
        ("taps", "layer3.1,layer4.9,layer4.1", "No tap 'layer4.9'*layer4.1"),
        ("checkpoint", "gone.pt", "No checkpoint file *gone.pt"),
        ("teacher", "resnet19", "Unknown torchvision model 'resnet19'. Did you mean*resnet18"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_no_traceback(run: Project, option: str, value: str, told: str) -> None:
    result = run("-k", "[Model1]", f"--kvbench-{option}", value)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (result.stderr if result.stderr.str().strip() else result.stdout).fnmatch_lines([f"*{told}*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_missing_folder_of_images_stops_the_session_with_a_sentence(run: Project, small: object) -> None:
    result = run("-k", "Model1", "--kvbench-workload", "tiny-imagenet", "--kvbench-root", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*No folder *nowhere: workload tiny-imagenet expects*"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_runs(run: Project) -> None:
    result = run("--kvbench-device", "cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: No usable device 'cuda': *"])
    assert "Traceback" not in result.stderr.str()


def test_without_kvbenchs_fixtures_the_plugin_is_silent_and_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_nothing():\n    assert not {'torch', 'pandas', 'scipy'} & set(sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert "kvbench:" not in told.stdout


def test_help_tells_every_option_with_its_default(pytester: pytest.Pytester) -> None:
    told = pytester.runpytest_inprocess("--help").stdout.str()
    for name in (
        "workload",
        "root",
        "device",
        "seeds",
        "cache",
        "expected",
        "report",
        "pooling",
        "precision",
        "update-expected",
    ):
        assert f"--kvbench-{name}" in told
    assert "such as fractals" in " ".join(told.split())
