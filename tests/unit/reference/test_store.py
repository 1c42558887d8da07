from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kvbench.findings.judge import judge
from kvbench.reference import store
from kvbench.results import history
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.references import edit


@pytest.fixture
def folder(paired_folder: Path) -> Path:
    return paired_folder


def test_the_published_table_is_whole_and_says_what_is_known() -> None:
    published = store.load(EXPECTED, "imagenet", DESIGN)
    assert len(published.histories) == 70
    assert published.histories[["train_loss", "val_accuracy"]].notna().all().all()
    assert published.histories[["val_loss", "agreement", "seconds"]].isna().all().all()
    assert published.epochs_reported == history.epochs(published.histories) == [1, 2, 3, 5, 10]
    assert "optimiser" in published.provenance["unknown"]


def test_the_first_reference_is_not_there_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        store.load(tmp_path, "fractals", replace(DESIGN, shipped=""), "pytest")
    assert str(told.value) == (
        f"There is no reference for fractals in {tmp_path} yet. To record one: pytest --kvbench-seeds 8"
        " --kvbench-update-expected"
    )


def test_the_command_that_records_a_chosen_run_has_its_choices(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--kvbench-workload fractals --kvbench-set epochs=5 lr=0\.1 --kvbench-seeds 8"
    ):
        store.load(tmp_path, "fractals+epochs=5+lr=0.1", replace(DESIGN, shipped=""))


def test_a_missing_reference_names_the_folder_and_the_command_that_records_one(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        store.load(folder, "tiny-imagenet", DESIGN)
    assert str(folder) in str(error.value)
    assert "there: fractals" in str(error.value)
    assert "pytest benchmarks/ --kvbench-workload tiny-imagenet --kvbench-seeds 8 --kvbench-update-expected" in str(
        error.value
    )
    assert store.available(folder / "nowhere", DESIGN) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("histories.csv", "Model3,0,1,", "Model3,0,1.5,", "epoch is '1.5'"),
        ("histories.csv", "Model3,0,1,", "Model3,7,1,", "Model3 lacks seed 0, epoch 1"),
        ("histories.csv", "configuration,", "name,", "unknown columns name"),
        ("verdicts.csv", "gelu-beats-relu", "gelu-beat-relu", "Unknown finding 'gelu-beat-relu'. Did you mean"),
        ("verdicts.csv", "constant lr", "no lr", "Unknown recipe 'no lr'"),
        ("verdicts.csv", ",holds,", ",hold,", "Unknown verdict 'hold'"),
        ("verdicts.csv", "verdict,margin", "margin,verdict", "valid: finding, recipe, clause, verdict"),
        ("verdicts.csv", ",holds,", ",holds,x", "margin holds something that is not a number"),
        ("verdicts.csv", "Model3-Model5-loss", "Model4-Model6-loss", "a clause twice"),
        (
            "verdicts.csv",
            "p,level",
            "level,p",
            "valid: finding, recipe, clause, verdict, margin, low, high, n, p, level",
        ),
        ("verdicts.csv", ",t\n", "x,t\n", "level holds something that is not a number"),
        ("replicates.csv", "Model3,0,1,", "Model9,0,1,", "does not fit"),
        ("replicates.csv", "Model3,0,1,", "Model3,0,1.5,", "epoch is '1.5'"),
        (
            "replicates.csv",
            "Model3,0,1,",
            "Model3,7,1,",
            "histories.csv: Model3 has a replicate of seed 7, which it lacks; Model3 lacks seed 0, epoch 1;",
        ),
        (
            "replicates.csv",
            "Model3,0,1,",
            "Model3,0,4,",
            "histories.csv: Model3 lacks seed 0, epoch 1; Model3 has, beyond what is expected, seed 0, epoch 4.",
        ),
        ("provenance.json", "{", "", "can't be read as JSON"),
        ("provenance.json", '"seeds": [', '"seeds": ["x", ', "seeds is ['x', 0"),
        ("provenance.json", '"seeds"', '"sedes"', "seeds is None"),
        ("provenance.json", '"epochs": [', '"epochs": [4, ', "Model3 lacks seed 0, epoch 4"),
        ("provenance.json", '"epochs": [', '"epochs_reported": [1.5,', "epochs_reported is [1.5, 1"),
        ("provenance.json", '"fingerprints": {', '"flops_per_sample": [],\n "fingerprints": {', "valid is an object"),
        (
            "provenance.json",
            '"fingerprints": {',
            '"projections": {"a": [1, "b"]},\n "fingerprints": {',
            "lists of numbers",
        ),
        ("provenance.json", '"fingerprints": {', '"flops_per_sample": {"a": "b"},\n "fingerprints": {', "not a number"),
    ],
)
def test_a_damaged_reference_is_refused_in_a_sentence_that_names_the_file(
    folder: Path, file: str, old: str, new: str, said: str
) -> None:
    path = folder / "fractals" / file
    edit(path, old, new)
    with pytest.raises(UserError) as error:
        store.load(folder, "fractals", DESIGN)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["verdicts.csv", "provenance.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / "fractals" / file).unlink()
    with pytest.raises(UserError, match=f"There is no file .*{file}"):
        store.load(folder, "fractals", DESIGN)


@pytest.mark.parametrize(("file", "content"), [("verdicts.csv", b""), ("provenance.json", b"[]")])
def test_an_empty_file_is_told(folder: Path, file: str, content: bytes) -> None:
    (folder / "fractals" / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        store.load(folder, "fractals", DESIGN)


def test_a_row_that_vanished_from_the_reference_is_named(folder: Path) -> None:
    path = folder / "fractals" / "histories.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("Model4,3,2,")))
    with pytest.raises(UserError, match="Model4 lacks seed 3, epoch 2"):
        store.load(folder, "fractals", DESIGN)


def test_verdicts_of_a_file_without_tests_are_refused(folder: Path) -> None:
    path = folder / "fractals" / "verdicts.csv"
    old = ["finding", "recipe", "clause", "verdict", "margin", "low", "high", "n"]
    pd.read_csv(path)[old].to_csv(path, index=False)
    with pytest.raises(UserError, match=r"verdicts\.csv has the columns finding, .*; valid: .*, p, level, method\."):
        store.load(folder, "fractals", DESIGN)


def test_a_reference_holds_its_replicates_its_random_numbers_and_its_judgements(folder: Path) -> None:
    loaded = store.load(folder, "fractals", DESIGN)
    assert history.seeds(loaded.replicates) == [0, 1, 2, 3]
    assert history.configurations(loaded.replicates) == history.configurations(loaded.histories)
    assert loaded.rng_fingerprint == "abc"
    assert loaded.judgements == judge(loaded.histories, DESIGN)
    assert loaded.judgements is loaded.judgements  # judged once


def test_a_reference_without_replicates_has_an_empty_frame_of_them(folder: Path) -> None:
    (folder / "fractals" / "replicates.csv").unlink()
    edit(folder / "fractals" / "provenance.json", '"random_numbers": "abc",', "")
    loaded = store.load(folder, "fractals", DESIGN)
    assert loaded.replicates.empty
    assert list(loaded.replicates.columns) == list(loaded.histories.columns)
    assert loaded.rng_fingerprint == ""


def test_a_row_that_vanished_from_the_replicates_is_named(folder: Path) -> None:
    path = folder / "fractals" / "replicates.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("Model4,3,2,")))
    with pytest.raises(UserError, match=r"replicates\.csv .*Model4 lacks seed 3, epoch 2"):
        store.load(folder, "fractals", DESIGN)
