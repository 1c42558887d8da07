"""Several references in one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvbench.reference.store import load
from kvbench.reference.update import update
from kvbench.reporting.side_by_side import side_by_side
from kvbench.utils.errors import UserError
from tests.support import DESIGN, EXPECTED
from tests.support.students import student_runs
from tests.support.tables import cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("references")
    for file in ("histories.csv", "verdicts.csv", "provenance.json"):
        (tmp_path / "imagenet").mkdir(exist_ok=True)
        (tmp_path / "imagenet" / file).write_bytes((EXPECTED / "imagenet" / file).read_bytes())
    update(tmp_path, "fractals", DESIGN, student_runs(seeds=3, noise=0.001), {})
    return tmp_path


def test_verdicts_stand_side_by_side_and_each_workloads_tables_below(folder: Path) -> None:
    told = side_by_side(folder, ["imagenet", "fractals"], DESIGN).markdown()
    verdicts = cells(told)
    assert verdicts[0] == ["finding", "recipe", "imagenet", "fractals"]
    assert len(verdicts) == 16
    assert verdicts[2] == ["simple-converges-faster", "constant lr", "holds 2/2", "holds 2/2"]
    assert verdicts[-1][:2] == ["scheduler-helps", "both"]
    _, imagenet, fractals = re.split(r"^## (?:imagenet|fractals)$", told, flags=re.MULTILINE)
    assert "- runs: n = 1 of each configuration\n" in imagenet
    assert "- runs: n = 3 of each configuration\n" in fractals
    losses = cells(imagenet)
    assert losses[0] == ["configuration", "1", "2", "3", "5", "10"]
    assert losses[1] == ["lr_Model1", "0.868", "**0.145**", "**0.110**", "**0.095**", "**0.088**"]
    assert cells(fractals[fractals.index("Validation accuracy") :])[0] == ["configuration", "1", "2", "3", "4"]


def test_verdicts_are_those_of_each_reference_as_a_whole(folder: Path) -> None:
    rows = {tuple(row[:2]): row[2] for row in cells(side_by_side(folder, ["fractals"], DESIGN).markdown())[1:]}
    for judgement in load(folder, "fractals", DESIGN).judgements:
        recipe = "both" if judgement.finding.across else judgement.recipe
        assert rows[judgement.finding.id, recipe].startswith(f"{judgement.verdict} ")


def test_what_a_reference_lacks_is_a_dash(folder: Path) -> None:
    half = student_runs(prefixes=[""], seeds=2)
    update(folder, "half", DESIGN, half, {})
    rows = cells(side_by_side(folder, ["half"], DESIGN).markdown())
    assert ["simple-is-best", "StepLR", "-"] in rows
    assert ["scheduler-helps", "both", "-"] in rows


def test_an_unknown_reference_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match="no reference for nowhere"):
        side_by_side(folder, ["fractals", "nowhere"], DESIGN)
