"""``kvbench detect`` and ``kvbench power``: what a run detects, and what its seeds can show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness.record import made_from
from kvbench.harness.setup import Settings
from kvbench.mutation import replays
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.utils.environment import environment
from tests.support import synthetic, tiny
from tests.support.banks import CPU
from tests.support.commands import Call

TRAINED = ("Model1", "Model3")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References of the tiny workload: four seeds and two replicates of two configurations."""
    tiny.register(monkeypatch)
    monkeypatch.setattr(replays, "DRAWS", 3)
    banks = Settings(tiny.TINY, CPU, tmp_path / "cache").open_banks()
    rows, replicates = [], []
    for row in tiny.EXPERIMENT.configurations:
        if row.id in TRAINED:
            others = [Run(row, *banks.perturbed, seed) for seed in range(2)]
            training = Training(row, banks.train, banks.val, range(4), replicates=others)
            training.finish()
            rows += training.history
            replicates += training.replicate_history
    facts = {"fingerprints": made_from(tiny.EXPERIMENT, banks), **environment(CPU)}
    folder = tmp_path / "references"
    update(
        folder, "tiny", tiny.STUDY.design, history.frame(rows), facts, full=True, replicates=history.frame(replicates)
    )
    return folder


def options(recorded: Path) -> list[str]:
    cache = str(recorded.parent / "cache")
    return ["--workload", "tiny", "--device", "cpu", "--cache", cache, "--folder", str(recorded)]


def test_detect_tells_of_one_fault_and_counts_no_false_alarms(call: Call, recorded: Path) -> None:
    result = call("detect", *options(recorded), "--fault", "lr-x2")
    assert result.code == 0, result.err
    assert "[1/1] lr-x2: detected" in result.err
    assert "Made by `kvbench detect --workload tiny --fault lr-x2`" in " ".join(result.out.split())
    assert "1 of 1 faults that change a result are detected by the default run" in " ".join(result.out.split())
    assert "False alarms" not in result.out


def test_detect_replays_clean_runs_and_writes_a_page(
    call: Call, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvbench.mutation import faults

    chosen = {name: faults.FAULTS[name] for name in ("lr-x2", "epochs-from-zero", "zeroed-gradients")}
    monkeypatch.setattr(faults, "FAULTS", chosen)
    page = recorded.parent / "page.md"
    result = call("detect", *options(recorded), "--clean-seeds", "100:105", "--rounded", 1, "--out", page)
    assert result.code == 0, result.err
    assert "[3/3] zeroed-gradients: changes nothing" in result.err
    assert re.match(r"2 of 2 faults that change a result are detected", result.out)
    text = " ".join(page.read_text().split())
    for expected in (
        "Made by `kvbench detect --workload tiny --clean-seeds 100:105 --rounded 1`",
        "## False alarms",
        "the default run (seeds 0-1) on perturbed features",
        "half of the reference's 2 replicates as the run",
        "2 new seeds, no seed twice, of seeds 100-104",
        "2 seeds drawn from seeds 100-104 and the reference's",
        "2 new seeds drawn from seeds 100-104",
        "Runs that stop: - epochs-from-zero: ",
        "## Equivalent faults",
    ):
        assert expected in text, expected
    assert max(len(line) for line in page.read_text().splitlines() if "|" not in line) <= 120
    again = call("detect", *options(recorded), "--rounded", 0, "--out", page)
    assert again.code == 0, again.err
    assert "--clean-seeds 100:102 --rounded 0`" in page.read_text(), "by default those of one run"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fault", "lr-x4"], r"Unknown fault 'lr-x4'\. Did you mean .*lr-x2"),
        (["--clean-seeds", "3:5"], r"Seed 3 is the reference's; clean seeds must be new"),
        (["--clean-seeds", "none"], r"Cannot read the seeds 'none'"),
        (["--out", "file/page.md"], r"Cannot write to the folder"),
    ],
)
def test_detect_refuses_what_makes_no_sense_before_it_trains(
    arguments: list[str], sentence: str, call: Call, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setattr(Training, "finish", lambda _: pytest.fail("something was trained"))
    result = call("detect", *options(recorded), *arguments)
    assert result.code == 2
    assert re.match(rf"Error: .*{sentence}", result.err), result.err
    assert result.out == ""


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    synthetic.reference(tmp_path, names=("Model1", "Model2", "Model3"))
    return tmp_path


def test_power_shows_tolerances_and_clauses(call: Call, reference: Path) -> None:
    result = call("power", "--expected", "synthetic", "--folder", reference, "--loss", 1.1)
    assert result.code == 0, result.err
    assert result.out.startswith("Tolerances: 20 reference seeds, a false alarm in at most 1% of runs")
    assert "Clauses of the findings" in result.out
    one = call("power", "--expected", "synthetic", "--folder", reference, "--configuration", "Model3")
    assert one.code == 0
    assert "Model3" in one.out
    assert "Model1" not in one.out
    assert "Clauses" not in one.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--configuration", "Model4"], r"Unknown configuration 'Model4'\. .*Model1"),
        (["--loss", "1"], r"Got --loss 1 --share 0\.01: valid is a factor above 1 and a number above 0\."),
        (["--share", "0"], r"Got --loss 1\.05 --share 0: valid is"),
        (["--expected", "flowers"], r"There is no reference for flowers"),
    ],
)
def test_power_refuses_what_makes_no_sense(arguments: list[str], sentence: str, call: Call, reference: Path) -> None:
    result = call("power", "--expected", "synthetic", "--folder", reference, *arguments)
    assert result.code == 2
    assert re.match(rf"Error: .*{sentence}", result.err), result.err


def test_the_power_of_one_seed_is_not_known(call: Call, tmp_path: Path) -> None:
    facts = {"random_numbers": "here"}
    update(tmp_path, "lone", tiny.STUDY.design, synthetic.runs([0], ["Model1"]), facts, full=True)
    assert json.loads((tmp_path / "lone" / "provenance.json").read_text())
    result = call("power", "--expected", "lone", "--folder", tmp_path)
    assert result.code == 2
    assert result.err == "Error: The reference of lone has one seed: its spread is not known.\n"


def test_false_alarms_are_counted_and_findings_judged(call: Call, tmp_path: Path) -> None:
    synthetic.reference(tmp_path)
    page = tmp_path / "page.md"
    options = ["--runs", 0, "--same", 0, "--judged", 2, "--splits", 2, "--workers", 1, "--cache", tmp_path / "cache"]
    result = call("alarms", *options, "--expected", "synthetic", "--folder", tmp_path, "--out", page)
    assert result.code == 0, result.err
    assert result.out.rstrip() == page.read_text().rstrip()
    text = " ".join(result.out.split())
    for expected in (
        "Made by `kvbench alarms --runs 0 --same 0 --references 10 --judged 2 --splits 2 --expected synthetic`",
        "- 2 runs, 5 seeds of synthetic's reference against the others: 0 false alarms",
        "| no effect: recorded margins with permuted labels | 2 |",
    ):
        assert expected in text, expected
    assert "## Clean runs" not in text
