"""An ablation without a teacher, as a project's conftest.py registers it, and students made from the training bank."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kvbench.studies import linear_probes
from tests.support import ROOT
from tests.support.commands import Call
from tests.support.project import Project, counts, said

REGRESSION = """
import os
import torch
from kvbench import Finding, Recipe, Student, Study, below

WIDTHS = {"few": 2, "many": 6}


def train(configuration, seed, device):
    # Linear regression on some of six inputs; the data are the same for every seed.
    data = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=data)[:, : WIDTHS[configuration.student.name]].to(device)
    y = torch.randn(256, 6, generator=torch.Generator().manual_seed(0)).sum(1, keepdim=True).to(device)
    model = torch.nn.Linear(x.shape[1], 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=configuration.recipe.lr)
    for epoch in range(configuration.recipe.epochs):
        losses = []
        for rows in torch.randperm(256).split(configuration.recipe.batch_size):
            loss = (model(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with open("epochs.txt", "a") as file:
            print(configuration.id, seed, epoch + 1, file=file)
        yield {"train_loss": sum(losses) / len(losses)}


def pytest_kvbench_studies():
    students = Student("few", summary="two inputs"), Student("many", summary="all inputs")
    recipes = (Recipe("SGD", epochs=3, lr=0.05),)
    findings = (Finding("more-inputs-help", "more inputs fit better", below("many", "few", "train_loss")),)
    return Study("inputs", "Inputs of a regression", students, recipes, findings, train=train)
"""


@pytest.fixture
def regression(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of its own with the regression and a recorded reference."""
    shutil.copytree(ROOT / "benchmarks", pytester.path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    pytester.makeconftest(REGRESSION)

    def run(*arguments: str) -> pytest.RunResult:
        arguments = "benchmarks/test_ablation.py", "-p", "no:cacheprovider", *arguments
        return pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)

    recorded = run("--kvbench-update-expected", "--kvbench-seeds", "6")
    recorded.stdout.fnmatch_lines(["*Reference written to *expected?inputs?default:*", "*clauses now: 1 holds*"])
    (pytester.path / "epochs.txt").unlink()
    return run


def edit(project: Path, old: str, new: str) -> None:
    path = project / "conftest.py"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def trained(project: Path) -> list[str]:
    """The epochs that were trained since this was asked last: configuration, seed, epoch."""
    path = project / "epochs.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_it_is_trained_timed_judged_and_saved(regression: Project, pytester: pytest.Pytester, call: Call) -> None:
    os.chdir(pytester.path)
    result = regression("--kvbench-seeds", "8", "--benchmark-json=run.json")
    counts(result, passed=3, failed=0)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["Curves: 2 of 2 configurations are as recorded *", "Seconds an epoch of a seed: *"])
    content = json.loads((pytester.path / "run.json").read_text())
    assert content["kvbench"] == {"workload": "default", "outcome": "passed", "reasons": []}
    records = [benchmark["extra_info"]["kvbench"] for benchmark in content["benchmarks"]]
    assert [(record["configuration"], len(record["history"])) for record in records] == [("few", 24), ("many", 24)]
    assert [benchmark["stats"]["rounds"] for benchmark in content["benchmarks"]] == [24, 24]
    assert records[0]["recipe"] == {"epochs": 3, "lr": 0.05}, "not what the function may never read"
    assert not {"teacher", "teacher_val_accuracy", "train_count"} & {*records[0], *records[0]["fingerprints"]}
    for arguments in (["report", "run.json"], ["report", "--expected", "default"]):
        told = call(*arguments)
        assert (told.code, told.err) == (0, "")
        assert "more-inputs-help" in told.out
        assert "teacher" not in told.out
        assert "accuracy" not in told.out
    assert "all inputs" in call("students").out
    assert call("power", "--expected", "default").code == 0


def test_a_regression_turns_it_red(regression: Project, pytester: pytest.Pytester) -> None:
    edit(pytester.path, "torch.optim.SGD(model.parameters(), lr=configuration.recipe.lr)",
         "torch.optim.SGD(model.parameters(), lr=configuration.recipe.lr / 10)")  # fmt: skip
    result = regression()
    counts(result, failed=2)
    result.stdout.fnmatch_lines(["many on default: train_loss, last epoch is outside the reference: *"])


def test_a_finding_that_no_longer_holds_fails(regression: Project, pytester: pytest.Pytester) -> None:
    edit(pytester.path, '"many": 6', '"many": 1')
    result = regression("--kvbench-seeds", "6")
    result.stdout.fnmatch_lines(["*more-inputs-help*recorded as holds, now fails*"])


def test_another_recipe_has_a_reference_of_its_own(regression: Project, pytester: pytest.Pytester) -> None:
    result = regression("--kvbench-set", "lr=0.1")
    counts(result, failed=3)
    result.stdout.fnmatch_lines(["*There is no reference for default+lr=0.1 in*"])
    edit(pytester.path, "lr=0.05", "lr=0.1")
    told = said(regression("-k", "[few]"))
    assert "made from something else than the reference: recipe lr (0.1, recorded 0.05)." in told


def test_a_metric_that_is_no_longer_measured_fails(regression: Project, pytester: pytest.Pytester) -> None:
    edit(pytester.path, 'yield {"train_loss": sum(losses) / len(losses)}',
         'yield {"train_loss": sum(losses) / len(losses), "val_accuracy": 0.5 + losses[-1] / 99}')  # fmt: skip
    told = regression("-k", "[few]")
    told.stdout.fnmatch_lines(["few on default: val_accuracy, last epoch is outside the reference: *"])
    regression("--kvbench-update-expected", "--kvbench-seeds", "6")
    edit(pytester.path, ', "val_accuracy": 0.5 + losses[-1] / 99', "")
    result = regression("-k", "[few]")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(["*: val_accuracy, last epoch is outside the reference: no number, recorded *"])


def test_workers_train_it_and_its_finding_is_judged_at_the_end(regression: Project) -> None:
    result = regression("-n2")
    counts(result, passed=2, skipped=1, failed=0)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*more-inputs-help*holds*"])


def test_an_interrupted_run_keeps_the_seeds_that_it_finished(regression: Project, pytester: pytest.Pytester) -> None:
    edit(pytester.path, '        yield {"train_loss"',
         '        if os.path.exists("stop") and (configuration.id, seed, epoch) == ("many", 1, 2):\n'
         '            os.remove("stop")\n            raise KeyboardInterrupt\n        yield {"train_loss"')  # fmt: skip
    (pytester.path / "stop").touch()
    result = regression("--kvbench-seeds", "3")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["kvbench: stopped by Ctrl-C; the same command goes on with what * left."])
    trained(pytester.path)
    result = regression("--kvbench-seeds", "3", "--benchmark-json=resumed.json")
    counts(result, passed=3, failed=0)
    result.stderr.fnmatch_lines(["few is reused, an earlier run finished it.", "many goes on with seed 1."])
    result.stdout.fnmatch_lines(["REUSED: few (finished); many (1 of 3 seeds); *"])
    assert trained(pytester.path) == [f"many {seed} {epoch}" for seed in (1, 2) for epoch in (1, 2, 3)]
    regression("--kvbench-seeds", "3", "--benchmark-json=whole.json")
    resumed, whole = (json.loads((pytester.path / name).read_text()) for name in ("resumed.json", "whole.json"))
    losses = [{(record["configuration"], row["seed"], row["epoch"]): row["train_loss"]
               for record in [*(one["extra_info"]["kvbench"] for one in content["benchmarks"]),
                              *content["kvbench"].get("not_timed", [])]
               for row in record["history"]} for content in (resumed, whole)]  # fmt: skip
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2 * 3 * 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("return", "The train function of few (seed 0) ends after 0 of 3 epochs: it must yield a row for each."),
        ("raise ValueError('no data')", "The train function of few (seed 0) fails: ValueError: no data (*conftest.py"),
        ("losses = ['nonsense']; yield losses", "The train function of few (seed 0) yields *'nonsense'*; valid is*"),
        ("yield {'train_loss': float('nan')}", "The training loss of few (seed 0) is nan in epoch 1: try a smaller lr"),
        ("yield {'train_loss': 1.0, 'val_accuracy': 99}", "*yields 99 as val_accuracy in epoch 1; valid is a share"),
    ],
)
def test_a_wrong_function_is_one_sentence(
    regression: Project, pytester: pytest.Pytester, change: str, sentence: str
) -> None:
    edit(pytester.path, "        losses = []\n", f"        {change}\n")
    result = regression("-k", "[few]")
    counts(result, failed=1)
    result.stdout.fnmatch_lines([f"*{sentence}*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("workload", "defualt", "Unknown workload 'defualt'. Did you mean default? Valid: default."),
        ("workload", "fractals", "Unknown workload 'fractals'. Valid: default."),
        ("workload", "../x", "Unknown workload '../x'. Valid: default."),
    ],
)
def test_a_workload_that_it_does_not_name_is_one_sentence(
    regression: Project, option: str, value: str, sentence: str
) -> None:
    result = regression(f"--kvbench-{option}", value)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{sentence}*"])


@pytest.mark.parametrize("command", ["extract", "detect"])
def test_a_command_that_needs_images_says_that_there_are_none(
    regression: Project, pytester: pytest.Pytester, call: Call, command: str
) -> None:
    os.chdir(pytester.path)
    told = call(command)
    assert (told.code, told.err) == (
        2,
        "Error: The workload default has no images: its study trains without a teacher.\n",
    )


CACHE = """
from dataclasses import replace
import torch.nn.functional as F
from torch import nn
from kvbench import Student, Study, Recipe, linear, SumOfHeads, Finding, below


class Cache(nn.Module):
    def __init__(self, bank):
        super().__init__()
        (features,), _, labels = bank.batch(slice(None))
        self.register_buffer("keys", F.normalize(features))
        self.register_buffer("values", F.one_hot(labels, bank.classes).float())

    def forward(self, xs):
        return ((F.normalize(xs[-1]) @ self.keys.T - 1) * 5.5).exp() @ self.values


def pytest_kvbench_studies():
    students = Student("cache", make_from=Cache), Student("linear", lambda d, k: SumOfHeads([linear(d[0], k)]))
    recipe = Recipe(epochs=2, lr=3e-3, loss="cross_entropy", target="labels")
    return Study("caches", "Caches", students, (recipe,), (Finding("fits", "x", below("linear", "cache", "val_loss")),))
"""


def test_a_cache_is_recorded_compared_and_drifts_like_the_rest(run: Project, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CACHE)
    result = run("--kvbench-update-expected", "--kvbench-seeds", "6")
    result.stdout.fnmatch_lines(["*Reference written to *expected?caches?small:*", "*new *cache: train_loss*(n = 6)"])
    folder = pytester.path / "expected" / "caches" / "small"
    assert (folder / "replicates.csv").read_text().count("\ncache,") == 6 * 2
    flops = json.loads((folder / "provenance.json").read_text())["flops_per_sample"]
    assert flops == {"cache": 2 * 640 * (512 + 10), "linear": 2 * 512 * 10}
    counts(run("--kvbench-seeds", "2"), failed=0, errors=0)
    counts(run("--kvbench-seeds", "20:22", "-k", "[cache]"), passed=1)
    path = pytester.path / "conftest.py"
    path.write_text(path.read_text().replace("* 5.5", "* 6"))
    result = run("-k", "[cache]", "--kvbench-seeds", "2")
    counts(result, failed=1)
    result.stdout.fnmatch_lines(["cache on small: train_loss,*outside the reference*"])


def test_the_second_study_is_recorded_and_passes_with_the_same_suite(run: Project, pytester: pytest.Pytester) -> None:
    probes = "--kvbench-study", "linear-probes", "--kvbench-taps", ",".join(linear_probes.BLOCKS)
    few = "--kvbench-set", "epochs=2", "train_count=128"
    result = run(*probes, *few, "--kvbench-seeds", "6", "--kvbench-update-expected")
    result.stdout.fnmatch_lines(["*Reference written to *expected?linear-probes?small+epochs=2+train_count=128:*"])
    result = run(*probes, *few, "--kvbench-seeds", "6")
    counts(result, failed=0, errors=0)
    result.stdout.fnmatch_lines(["*kvbench: linear-probes-small*", "separability-rises-with-depth *labels *"])
