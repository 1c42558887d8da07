"""Sweeps: what is trained, kept, shared, resumed, and what becomes of cells that fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvbench.core.custom import CustomRun
from kvbench.core.models import SumOfHeads
from kvbench.core.recipe import Recipe
from kvbench.core.run import Run
from kvbench.core.student import Student
from kvbench.core.trainer import Training
from kvbench.findings.finding import Finding
from kvbench.findings.judge import judge
from kvbench.findings.vocabulary import below
from kvbench.harness.kept import keeps
from kvbench.harness.setup import Settings
from kvbench.harness.sweep import duration, sweep
from kvbench.results import history
from kvbench.studies.experiment import Experiment
from kvbench.studies.grid import Grid
from kvbench.studies.study import Study
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress
from tests.support import tiny
from tests.support.banks import CPU
from tests.support.grids import HELPS, HERE, SEEDS, STUDY, TRAINED, swept

TWO = ("Model1", "Model3")


@pytest.fixture(autouse=True)
def nothing_trained() -> None:
    TRAINED.clear()


def verdicts(found: Any, finding: str = "momentum-helps", scope: str = "constant lr") -> dict[tuple[str, ...], str]:
    return {place: square.verdict for place, square in found.squares(found.design.finding(finding), scope).items()}


def test_a_grid_is_trained_judged_and_mapped(tmp_path: Path) -> None:
    found = swept(tmp_path, lr=(0.02, 0.03, 0.08), batch_size=(32, 64))
    assert len(TRAINED) == 6 * 4 * SEEDS * 2
    expected = {("0.02", "fails"), ("0.03", "fails"), ("0.08", "holds")}
    assert {(place[0], verdict) for place, verdict in verdicts(found).items()} == expected
    frame = found.histories
    assert list(frame.columns) == ["lr", "batch_size", *history.COLUMNS]
    assert len(frame) == len(TRAINED)
    alone = judge(found.cells[0].histories, STUDY.design, {})
    assert found.cells[0].judgements == tuple(alone), "a cell is judged as a run"


def test_what_is_kept_is_not_trained_again_and_only_what_is_new_is(tmp_path: Path) -> None:
    first = swept(tmp_path, lr=(0.02, 0.08))
    TRAINED.clear()
    again = swept(tmp_path, lr=(0.02, 0.08))
    assert TRAINED == []
    pd.testing.assert_frame_equal(first.verdicts, again.verdicts)
    pd.testing.assert_frame_equal(first.histories, again.histories)
    more = swept(tmp_path, lr=(0.02, 0.04, 0.08))
    assert {lr for _, lr, _ in TRAINED} == {0.04}
    assert [len(cell.judgements) for cell in more.cells] == [5, 5, 5]


def test_more_seeds_train_the_new_ones_alone(tmp_path: Path) -> None:
    swept(tmp_path, seeds=3, lr=(0.02, 0.08))
    TRAINED.clear()
    more = swept(tmp_path, seeds=5, lr=(0.02, 0.08))
    assert {seed for _, _, seed in TRAINED} == {3, 4}
    TRAINED.clear()
    assert more.histories["seed"].nunique() == 5
    fewer = swept(tmp_path, seeds=(1, 4), lr=(0.02, 0.08))
    assert TRAINED == []
    assert sorted(fewer.histories["seed"].unique()) == [1, 4]


def test_a_training_that_is_the_same_in_two_cells_is_trained_once(tmp_path: Path) -> None:
    found = swept(tmp_path, gamma=(0.5, 0.1))
    assert sum(name == "plain" for name, _, _ in TRAINED) == SEEDS * 2, "a constant lr reads no gamma"
    assert sum(name == "lr_plain" for name, _, _ in TRAINED) == SEEDS * 2 * 2
    assert all(len(cell.judgements) == 5 for cell in found.cells)


def test_a_finding_trains_what_it_needs_and_is_judged_alone(tmp_path: Path) -> None:
    one = replace(HELPS, recipes=("constant lr",))
    study = replace(STUDY, findings=(one, *STUDY.findings[1:]))
    found = swept(tmp_path, study, findings=["momentum-helps"], lr=(0.02, 0.08))
    assert {name for name, _, _ in TRAINED} == {"plain", "momentum"}
    assert [[j.finding for j in cell.judgements] for cell in found.cells] == [[one], [one]]
    assert "both-help" not in found.markdown()


@pytest.mark.parametrize("change", ["code", "recipe", "device's numbers"])
def test_what_decides_the_numbers_decides_what_is_reused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(tmp_path, lr=(0.02, 0.08))
    TRAINED.clear()
    if change == "code":
        monkeypatch.setattr("kvbench.harness.sweep.code", lambda _: "another")
        swept(tmp_path, lr=(0.02, 0.08))
    elif change == "recipe":
        swept(tmp_path, lr=(0.02, 0.08), weight_decay=0.5)
    else:
        monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
        swept(tmp_path, lr=(0.02, 0.08))
    assert len(TRAINED) == 2 * 4 * SEEDS * 2


def test_an_interrupted_sweep_goes_on_and_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvbench")
    whole = swept(tmp_path / "whole", lr=(0.02, 0.08))
    chunks = CustomRun.chunks

    def mortal(run: Run) -> Iterator[None]:
        if len(TRAINED) >= 20:
            raise KeyboardInterrupt
        return chunks(run)  # type: ignore[arg-type]

    TRAINED.clear()
    with monkeypatch.context() as patch:
        patch.setattr(CustomRun, "chunks", mortal)
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path / "cut", lr=(0.02, 0.08))
    directory = tmp_path / "cut" / "sweeps" / "formulas-here"
    assert caplog.messages[-1] == f"Stopped: 2 of 8 trainings are complete, in {directory}; the same command goes on."
    assert len(TRAINED) == 20
    found = swept(tmp_path / "cut", lr=(0.02, 0.08))
    assert len(TRAINED) == 2 * 4 * SEEDS * 2, "neither two trainings nor two seeds of the third are trained again"
    pd.testing.assert_frame_equal(found.verdicts, whole.verdicts)


def test_a_training_that_diverges_is_a_sentence_of_what_needs_it_and_stays_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = swept(tmp_path, lr=(0.02, 0.9))
    assert verdicts(found) == {("0.02",): "fails", ("0.9",): "no result"}
    assert verdicts(found, "step-helps", "StepLR against constant lr")[("0.9",)] != "no result"
    square = found.squares(HELPS, "constant lr")[("0.9",)]
    sentence = "The training loss of momentum (seed 0) is nan in epoch 1: try a smaller lr."
    assert (square.judgement, square.problem) == (None, sentence)
    assert f"lr=0.9 (momentum): {sentence}" in " ".join(found.markdown().replace("\\", "").split())
    assert f"lr=0.9, momentum: {sentence}" in caplog.messages
    TRAINED.clear()
    again = swept(tmp_path, lr=(0.02, 0.9))
    assert TRAINED == []
    assert again.cells[1].problems == found.cells[1].problems


def test_a_seed_that_diverges_takes_no_other_with_it_for_good(tmp_path: Path) -> None:
    def third(configuration: Any, seed: int, device: Any) -> Iterator[dict[str, float]]:
        for epoch in range(configuration.recipe.epochs):
            TRAINED.append((configuration.id, configuration.recipe.lr, seed))
            yield {"train_loss": float("inf") if (seed, epoch) == (2, 1) else 1.0, "val_accuracy": 0.5}

    study = replace(STUDY, train=third)
    with pytest.raises(
        UserError, match=r"No cell has a result\. The training loss of plain \(seed 2\) is inf in epoch 2"
    ):
        swept(tmp_path, study, seeds=3, lr=(0.02, 0.08))
    TRAINED.clear()
    found = swept(tmp_path, study, seeds=2, lr=(0.02, 0.08))
    assert [cell.problems for cell in found.cells] == [{}, {}]
    TRAINED.clear()
    with pytest.raises(UserError, match="seed 2"):
        swept(tmp_path, study, seeds=3, lr=(0.02, 0.08))
    assert TRAINED == []


def test_rows_that_cannot_be_are_a_sentence_too(tmp_path: Path) -> None:
    def wrong(configuration: Any, seed: int, device: Any) -> Iterator[dict[str, float]]:
        for _ in range(configuration.recipe.epochs):
            yield {"train_loss": 1.0, "val_accuracy": 1.5 if configuration.recipe.lr > 0.05 else 0.5}

    found = swept(tmp_path, replace(STUDY, train=wrong), seeds=2, lr=(0.02, 0.08))
    assert "yields 1.5 as val_accuracy in epoch 1; valid is a share" in found.cells[1].problems["plain"]
    assert found.cells[0].problems == {}


def test_no_result_at_all_is_an_error(tmp_path: Path) -> None:
    def broken(*_: Any) -> Iterator[dict[str, float]]:
        raise RuntimeError("no licence")
        yield {}

    with pytest.raises(UserError, match=r"No cell has a result\. The train function of plain .* no licence"):
        swept(tmp_path, replace(STUDY, train=broken), seeds=1, lr=(0.02, 0.08))


def test_a_finding_that_breaks_is_a_cell_with_a_sentence(tmp_path: Path) -> None:
    def breaks(curves: Any, costs: Any) -> Any:
        raise ZeroDivisionError("of the user's")

    study = replace(STUDY, findings=(Finding("mine", "it breaks", breaks),))
    found = swept(tmp_path, study, seeds=1, lr=(0.02, 0.08))
    said = "It cannot be judged: breaks, a term of a finding, fails: ZeroDivisionError: of the user's ("
    assert [cell.problems[""].startswith(said) for cell in found.cells] == [True, True]


def test_a_damaged_result_is_said_and_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = swept(tmp_path, lr=(0.02, 0.08))
    paths = sorted((tmp_path / "sweeps" / "formulas-here").glob("momentum-*.json"))
    assert len(paths) == 2
    paths[0].write_text(paths[0].read_text().replace("0.5", "0.25", 1))
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    TRAINED.clear()
    again = swept(tmp_path, lr=(0.02, 0.08))
    assert {name for name, _, _ in TRAINED} == {"momentum"}
    assert len(TRAINED) == 2 * SEEDS * 2
    told = [message for message in caplog.messages if "cannot be used, momentum is trained again" in message]
    assert len(told) == 2
    pd.testing.assert_frame_equal(again.verdicts, whole.verdicts)
    TRAINED.clear()
    swept(tmp_path, lr=(0.02, 0.08))
    assert TRAINED == []


def test_a_result_of_another_training_is_never_taken(tmp_path: Path) -> None:
    swept(tmp_path, lr=(0.02, 0.08))
    one, other = sorted((tmp_path / "sweeps" / "formulas-here").glob("momentum-*.json"))
    one.write_text(other.read_text())
    TRAINED.clear()
    swept(tmp_path, lr=(0.02, 0.08))
    assert len(TRAINED) == SEEDS * 2


def test_what_cannot_be_kept_is_said_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sweeps").write_text("a file")
    found = swept(tmp_path, lr=(0.02, 0.08))
    assert set(verdicts(found).values()) == {"holds", "fails"}
    assert any(message.startswith("Could not keep the results of plain: Cannot write") for message in caplog.messages)


def test_code_that_is_in_no_file_is_not_reused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notebook: dict[str, Any] = {"__name__": "__console__"}
    exec("def train(c, s, d):\n    yield {'train_loss': 1.0 + s, 'val_accuracy': 0.5}", notebook)
    study = replace(STUDY, train=notebook["train"], recipes=(Recipe(epochs=1),), findings=(HELPS,))
    assert keeps(STUDY)
    assert not keeps(study)
    swept(tmp_path, study, seeds=1, lr=(0.02, 0.08))
    assert caplog.messages == ["The code of formulas is in no file, so nothing of the sweep is kept."]
    assert not (tmp_path / "sweeps").exists()


def test_progress_counts_every_epoch_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kvbench")
    swept(tmp_path, seeds=2, lr=(0.02,), batch_size=(32, 64))
    seen: list[Progress] = []
    grid = Grid(STUDY, HERE, {"lr": (0.02, 0.08), "batch_size": (32, 64)})
    sweep(grid, 2, on_progress=seen.append, cache=tmp_path, device="cpu")
    assert {(one.total, one.unit) for one in seen} == {(4 * 4 * 2 * 2, "epoch")}
    assert [one.done for one in seen] == list(range(33, 65)), "two of four cells were there"
    assert caplog.messages[-4:-2] == [f"[{i}/4] lr=0.02 batch_size={b}: 0 trained, 4 reused" for i, b in
                                      ((1, 32), (2, 64))]  # fmt: skip
    assert "; at most about " in caplog.messages[-2]
    assert caplog.messages[-1] == "[4/4] lr=0.08 batch_size=64: 4 trained, 0 reused"
    assert (duration(42), duration(600), duration(9000)) == ("42 s", "10 min", "2.5 h")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"findings": ["momentum-helpt"]}, r"Unknown finding 'momentum-helpt'\. Did you mean momentum-helps"),
        ({"seeds": (1, 1)}, r"seeds \[1, 1\]: valid are one or more, from 0, each once"),
        ({"seeds": (-1,)}, r"from 0"),
        ({"devise": "cpu"}, r"Unknown option of a sweep 'devise'\. Did you mean device"),
        ({"device": "gpu"}, r"Unknown device 'gpu'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(
    arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        sweep(Grid(STUDY, HERE, {"lr": (0.02, 0.08)}), **{"cache": tmp_path, "device": "cpu", **arguments})
    assert TRAINED == []


def test_a_study_without_findings_has_no_map(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The study formulas has no findings: there is nothing to map"):
        swept(tmp_path, replace(STUDY, findings=()), lr=(0.02, 0.08))


@pytest.fixture
def small_study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two of the tiny workload's students, with one finding."""
    tiny.register(monkeypatch)
    students = tuple(row for row in tiny.STUDY.students if row.name in TWO)
    finding = replace(HELPS, terms=below("Model3", "Model1", "train_loss"))
    return replace(tiny.STUDY, students=students, findings=(finding,))


def test_cells_share_banks_and_each_has_its_own_images(small_study: Study, tmp_path: Path) -> None:
    grid = Grid(small_study, tiny.TINY, {"train_count": (64, 128), "lr": (1e-3, 3e-3), "batch_size": 32})
    found = sweep(grid, cache=tmp_path, device="cpu")
    assert [cell.problems for cell in found.cells] == [{}] * 4
    assert len({path.stem for path in tmp_path.glob("tiny-train-*")}) == 2
    cell = grid.cells[3]
    assert cell.name == "train_count=128 lr=0.003 batch_size=32"
    experiment = Experiment(small_study, tiny.TINY, cell.choices)
    banks = Settings(experiment.images, CPU, tmp_path).open_banks()
    rows = []
    for configuration in experiment.configurations:
        training = Training(configuration, banks.train, banks.val, [0, 1])
        training.finish()
        rows += training.history
    columns = [name for name in history.COLUMNS if name != "seconds"]
    pd.testing.assert_frame_equal(found.cells[3].histories[columns], history.frame(rows)[columns])


def test_unfinished_trainings_go_on_from_a_sessions_kind_of_states(
    small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(small_study, tiny.TINY, {"lr": (1e-3, 3e-3)})
    whole = sweep(grid, cache=tmp_path / "whole", device="cpu")
    plain, trained = Run.chunks, list[Any]()

    def chunks(run: Run) -> Iterator[None]:
        if len(trained) == 6:
            raise KeyboardInterrupt
        if not run.done:
            trained.append(run)
        yield from plain(run)

    monkeypatch.setattr(Run, "chunks", chunks)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid, cache=tmp_path / "cut", device="cpu")
    states = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").glob("*/*/*"))
    assert states == ["seed-0.safetensors", "seed-1.safetensors"]
    trained[:] = [None] * 100
    found = sweep(grid, cache=tmp_path / "cut", device="cpu")
    assert len(trained) - 100 == 2 * 4 * 2 * 2 - 6
    pd.testing.assert_frame_equal(found.verdicts, whole.verdicts)
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_banks_that_cannot_be_made_are_a_sentence_of_their_cells(
    small_study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tiny.TINY.opener

    def opener(row: Any, split: str, root: Any, count: int | None) -> Any:
        if count == 96:
            raise OSError("the disk is gone")
        return plain(row, split, root, count)

    workload = replace(tiny.TINY, opener=opener)
    found = sweep(Grid(small_study, workload, {"train_count": (64, 96)}), cache=tmp_path, device="cpu")
    assert "the disk is gone" in found.cells[1].problems[""]
    assert len(found.cells[0].judgements) == 2
    assert any(text.startswith("train_count=96 cannot be trained: The opener") for text in caplog.messages)


def test_a_student_that_cannot_be_made_takes_its_findings_alone(small_study: Study, tmp_path: Path) -> None:
    def breaks(widths: Any, classes: int) -> SumOfHeads:
        raise RuntimeError("no such layer")

    study = replace(small_study, students=(*small_study.students, Student("Broken", breaks)))
    found = sweep(Grid(study, tiny.TINY, {"lr": (1e-3, 3e-3)}), 1, cache=tmp_path, device="cpu")
    assert [cell.problems for cell in found.cells] == [{}, {}], "no finding needs it, so it is not trained"
    broken = Finding("broken", "it is as good", below("Broken", "Model1", "train_loss"))
    found = sweep(
        Grid(replace(study, findings=(*study.findings, broken)), tiny.TINY, {"lr": (1e-3, 3e-3)}),
        1, cache=tmp_path, device="cpu",
    )  # fmt: skip
    assert {name for cell in found.cells for name in cell.problems} == {"Broken", "lr_Broken"}
    assert [[j.finding.id for j in cell.judgements] for cell in found.cells] == [["momentum-helps"] * 2] * 2
    assert "no such layer" in found.squares(broken, "StepLR")[("0.001",)].problem


def test_results_are_plain_json_that_says_what_they_are(tmp_path: Path) -> None:
    swept(tmp_path, seeds=1, lr=(0.02, 0.08))
    path = next((tmp_path / "sweeps" / "formulas-here").glob("lr_plain-*.json"))
    content = json.loads(path.read_text())
    assert content["facts"]["configuration"] == "lr_plain"
    assert {"recipe", "versions", "hardware", "code", "study"} <= content["facts"].keys()
    assert [row["epoch"] for row in content["seeds"]["0"]] == [1, 2]
