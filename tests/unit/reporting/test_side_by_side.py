from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.reference.store import load
from kvbench.reference.update import update
from kvbench.reporting.side_by_side import side_by_side
from kvbench.utils.errors import UserError
from tests.support import EXPECTED
from tests.support.students import made
from tests.support.tables import cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("references")
    for file in ("histories.csv", "verdicts.csv", "provenance.json"):
        (tmp_path / "imagenet").mkdir(exist_ok=True)
        (tmp_path / "imagenet" / file).write_bytes((EXPECTED / "imagenet" / file).read_bytes())
    update(tmp_path, "fractals", made(seeds=3, noise=0.001), {})
    return tmp_path


def test_losses_accuracies_and_verdicts_stand_side_by_side(folder: Path) -> None:
    told = side_by_side(folder, ["imagenet", "fractals"])
    losses = cells(told)
    epochs = [f"{workload} {epoch}" for workload, last in (("imagenet", 10), ("fractals", 4)) for epoch in (1, 2, last)]
    assert losses[0] == ["configuration", *epochs]
    assert losses[1][:4] == ["lr_Model1", "0.868", "0.145", "0.088"]
    assert losses[1][-1] == "0.100"
    verdicts = cells(told[told.index("Verdicts") :])
    assert verdicts[0] == ["finding", "recipe", "imagenet, 1 seed, by sign", "fractals, 3 seeds"]
    assert len(verdicts) == 16
    assert verdicts[2] == ["simple-converges-faster", "constant lr", "holds (2 of 2)", "holds (2 of 2)"]


def test_verdicts_are_those_of_each_reference_as_a_whole(folder: Path) -> None:
    told = side_by_side(folder, ["fractals"])
    rows = {tuple(row[:2]): row[2] for row in cells(told[told.index("Verdicts") :])[1:]}
    for judgement in load(folder, "fractals").judgements:
        assert rows[judgement.finding.id, judgement.recipe].startswith(f"{judgement.verdict} (")


def test_what_a_reference_lacks_is_a_dash(folder: Path) -> None:
    half = made(prefixes=[""], seeds=2)
    update(folder, "half", half, {})
    told = side_by_side(folder, ["half"])
    assert cells(told)[1] == ["lr_Model1", "-", "-", "-"]
    assert ["scheduler-helps", "StepLR against constant lr", "-"] in cells(told[told.index("Verdicts") :])


def test_an_unknown_reference_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match="no reference for nowhere"):
        side_by_side(folder, ["fractals", "nowhere"])
