from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvbench.results import history
from kvbench.utils.errors import UserError


def row(configuration: str = "Model1", seed: object = 0, epoch: object = 1, **metrics: object) -> dict[str, object]:
    return {
        "configuration": configuration,
        "seed": seed,
        "epoch": epoch,
        "train_loss": 0.5,
        "val_accuracy": 0.25,
        **metrics,
    }


def grid() -> pd.DataFrame:
    return history.frame(row(n, s, e) for n in ("lr_Model1", "Model1") for s in (0, 1) for e in (1, 2, 3))


def test_frame_has_the_columns_in_order_with_their_types() -> None:
    frame = history.frame([row(seconds=1)])
    assert tuple(frame.columns) == history.COLUMNS
    assert frame["seed"].dtype == frame["epoch"].dtype == np.int64
    assert all(frame[metric].dtype == np.float64 for metric in history.METRICS)
    assert math.isnan(frame["val_loss"][0])
    assert frame["seconds"][0] == 1.0


def test_frame_keeps_the_order_of_configurations_and_sorts_inside() -> None:
    frame = history.frame([row("b", 1, 2), row("a", 0, 1), row("b", 1, 1), row("b", 0, 1)])
    assert [tuple(r) for r in frame[list(history.KEYS)].to_numpy()] == [
        ("b", 0, 1),
        ("b", 1, 1),
        ("b", 1, 2),
        ("a", 0, 1),
    ]


def test_frame_of_no_rows_is_empty() -> None:
    frame = history.frame([])
    assert frame.empty
    assert tuple(frame.columns) == history.COLUMNS
    assert history.configurations(frame) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(epoch=0)], "epoch is 0; valid is an integer from 1"),
        ([row(epoch=1.5)], "epoch is 1.5; valid is an integer"),
        ([row(epoch="one")], "epoch is 'one'; valid is an integer"),
        ([row(epoch=True)], "epoch is True; valid is an integer"),
        ([row(epoch=1e300)], "valid is an integer"),
        ([row(seed=-1)], "seed is -1; valid is an integer from 0"),
        ([row(seed=None)], "valid is an integer"),
        ([row(configuration="")], "configuration is ; valid is a name"),
        ([row(val_accuracy=1.01)], "val_accuracy is 1.01; valid is a share between 0 and 1"),
        ([row(val_accuracy=-0.1)], "valid is a share between 0 and 1"),
        ([row(agreement=2)], "agreement is 2.0; valid is a share"),
        ([row(train_loss=-0.1)], "train_loss is -0.1; valid is a number from 0"),
        ([row(val_loss=-1)], "val_loss is -1.0; valid is a number from 0"),
        ([row(seconds=-1)], "seconds is -1.0; valid is a number from 0"),
        ([row(train_loss=math.inf)], "train_loss is inf; valid is a finite number"),
        ([row(train_loss="low")], "row 1: train_loss is 'low'; valid is a number"),
        ([row(train_loss="nan")], "train_loss is 'nan'"),
        ([row(), row(train_loss=0.6)], "Model1 seed 0 epoch 1 twice, with different results"),
        ([row(), row(val_loss=0.6)], "Model1 seed 0 epoch 1 twice, with different results"),
        ([row(accuracy=1)], "unknown columns accuracy; a history has configuration"),
        ([{"configuration": "a", "seed": 0}], "lacks the columns epoch, train_loss, val_accuracy"),
        ([], "holds no rows"),
    ],
)
def test_check_refuses_in_one_sentence_that_names_where(rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(UserError) as error:
        history.check(pd.DataFrame(rows), "the file")
    assert said in str(error.value)
    assert str(error.value).startswith("the file")
    assert "\n" not in str(error.value)


def test_rows_of_ever_other_columns_are_refused_before_there_is_a_table_of_them_all() -> None:
    rows = [{**row(epoch=epoch), f"more{epoch}": 1} for epoch in range(1, 2001)]
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"^the file has unknown columns more1; a history has configuration"):
            history.frame(rows, "the file")
        assert tracemalloc.get_traced_memory()[1] < 2**20  # a table of 2,000 times 2,000 cells has 30 times that
    finally:
        tracemalloc.stop()


def test_rows_without_a_column_are_refused() -> None:
    with pytest.raises(UserError, match=r"^history lacks the columns configuration, seed"):
        history.frame([{}, {}])


def test_a_repeated_row_counts_once_whatever_its_seconds_and_place() -> None:
    rows = [row("b", seconds=3.0), row(epoch=2), row(seconds=2.0, val_loss=None), row("b", seconds=2.5), row("b")]
    for shuffled in (rows, rows[::-1]):
        frame = history.check(history.frame(shuffled), "x")
        assert len(frame) == 3
        assert frame.loc[frame["configuration"] == "b", "seconds"].tolist() == [2.5]
        assert list(frame.index) == [0, 1, 2]


def test_a_divergence_of_zero_may_be_negative_by_rounding_and_no_more() -> None:
    history.check(history.frame([row(train_loss=-1e-8, val_loss=-1e-7)]), "x", fresh=True)
    for metric in ("train_loss", "val_loss"):
        with pytest.raises(UserError, match=f"{metric} is -2e-06; valid is a number from 0"):
            history.check(history.frame([{**row(), metric: -2e-6}]), "x")
    with pytest.raises(UserError, match="seconds is -1e-08"):
        history.check(history.frame([row(seconds=-1e-8)]), "x")


def test_check_names_the_row() -> None:
    with pytest.raises(UserError, match="lr_Model2 seed 3 epoch 7"):
        history.check(history.frame([row(), row("lr_Model2", 3, 7, agreement=1.5)]), "x")


def test_a_column_twice_is_refused() -> None:
    twice = pd.DataFrame([row()])
    twice = pd.concat([twice, twice[["seed"]]], axis=1)
    with pytest.raises(UserError, match="a column twice"):
        history.check(twice, "x")


def test_fresh_runs_must_have_finite_loss_and_accuracy_in_every_epoch_or_none_and_may_lack_the_rest() -> None:
    history.check(history.frame([row()]), "x", fresh=True)
    for metric in ("train_loss", "val_accuracy"):
        gap = history.frame([row(), {**row(epoch=2), metric: None}])
        history.check(gap, "a published table may have a gap")
        with pytest.raises(UserError, match=f"epoch 2: {metric} is nan"):
            history.check(gap, "x", fresh=True)
    history.check(history.frame([{**row(), "val_accuracy": None}]), "a regression", fresh=True)
    with pytest.raises(UserError, match="train_loss is nan"):
        history.check(history.frame([{**row(), "train_loss": None}]), "x", fresh=True)


def test_infinite_values_pass_only_if_asked_for() -> None:
    assert history.check(history.frame([row(train_loss=math.inf)]), "x", finite=False)["train_loss"][0] == math.inf


def test_a_round_trip_through_a_file_is_stable(tmp_path: Path) -> None:
    frame = history.frame(
        [row(train_loss=0.1234567891, val_accuracy=1 / 3, seconds=12.3456789), row("b", val_loss=0.1)]
    )
    one, two = tmp_path / "one.csv", tmp_path / "sub" / "two.csv"
    history.write(frame, one)
    back = history.read(one)
    history.write(back, two)
    assert one.read_bytes() == two.read_bytes()
    pd.testing.assert_frame_equal(back, history.read(two))
    np.testing.assert_allclose(back["train_loss"], frame["train_loss"], rtol=1e-5)
    assert one.read_text().splitlines()[1] == "Model1,0,1,0.123457,,0.333333,,12.3457"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["one.csv"]


def test_write_refuses_what_read_would(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        history.write(history.frame([row(), row(agreement=0.1)]), tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file"),
        (b"", "can't be read as a CSV table"),
        (b"\xff\xfe\x00", "can't be read as text in UTF-8"),
        (b'configuration,seed\n"a,1\n', "can't be read as a CSV table"),
        (b"configuration,seed,epoch,train_loss,val_accuracy\n", "holds no rows"),
        (b"configuration,seed,epoch,train_loss,val_accuracy\nModel1,0,1,x,0.5\n", "train_loss is 'x'"),
        (b"configuration,seed,epoch,train_loss,val_accuracy\nModel1,0,,1,0.5\n", "epoch is ''"),
    ],
)
def test_read_tells_what_is_wrong_with_a_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "histories.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        history.read(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_folder_is_not_a_history(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        history.read(tmp_path)


def test_a_complete_grid_has_nothing_to_say() -> None:
    assert history.incomplete(grid(), ["lr_Model1", "Model1"], [0, 1], [1, 2, 3]) == []


@pytest.mark.parametrize(
    ("names", "seeds", "epochs", "said"),
    [
        (["lr_Model1", "Model1"], [0, 1], [1, 2, 3, 4], ["lr_Model1 lacks seed 0, epoch 4"] + ["..."] * 3),
        (["lr_Model1", "Model1"], [0, 1, 2], [1, 2, 3], ["lr_Model1 lacks seed 2", "Model1 lacks seed 2"]),
        (["lr_Model1", "Model1", "Model2"], [0, 1], [1, 2, 3], ["Model2 is missing"]),
        (["Model1"], [0, 1], [1, 2, 3], ["lr_Model1 is there but not expected"]),
        (["lr_Model1", "Model1"], [0], [1, 2, 3], ["lr_Model1 has, beyond what is expected, seed 1", "..."]),
        (["lr_Model1", "Model1"], [0, 1], [1], ["lr_Model1 has, beyond what is expected, seed 0, epochs 2, 3"]
         + ["..."] * 3),
    ],
)  # fmt: skip
def test_incomplete_tells_both_ways(
    names: Sequence[str], seeds: Sequence[int], epochs: Sequence[int], said: Sequence[str]
) -> None:
    words = history.incomplete(grid(), names, seeds, epochs)
    assert len(words) == len(said)
    assert all(one in (other, "...") for one, other in zip(said, words, strict=True))


def test_one_vanished_row_is_named() -> None:
    frame = grid()
    frame = frame.drop(index=frame.index[4])
    assert history.incomplete(frame, ["lr_Model1", "Model1"], [0, 1], [1, 2, 3]) == ["lr_Model1 lacks seed 1, epoch 2"]
