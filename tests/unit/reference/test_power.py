"""Power tables against simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvbench.reference.compare import FAMILY_ERROR
from kvbench.reference.power import clauses_table, tolerances_table
from kvbench.reference.store import Reference
from kvbench.reference.tolerances import LOSS_FLOOR, TOLERANCES
from kvbench.results import history
from kvbench.stats.intervals import prediction_interval
from tests.support import synthetic


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return synthetic.reference(tmp_path_factory.mktemp("power"))


def cells(table: str, *start: str) -> list[str]:
    (row,) = [
        line for line in table.splitlines() if [c.strip() for c in line.split("|")[1 : 1 + len(start)]] == [*start]
    ]
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_the_smallest_shift_of_a_gate_is_seen_in_four_runs_of_five(recorded: Reference) -> None:
    row = cells(tolerances_table(recorded, 4, 1.1, 0.02, ["Model3"]), "Model3", "train_loss, last epoch")
    spread, seen = (math.log1p(float(cell.rstrip("%")) / 100) for cell in row[2:4])
    level = 1 - FAMILY_ERROR / (len(TOLERANCES) * 15)
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        low, high = prediction_interval(rng.normal(0, spread, 20), 4, level)
        hits += not low - LOSS_FLOOR <= rng.normal(seen, spread, 4).mean() <= high + LOSS_FLOOR
    assert hits / 1000 == pytest.approx(0.8, abs=0.05)


def test_a_larger_effect_needs_fewer_seeds_and_a_tiny_one_is_out_of_reach(recorded: Reference) -> None:
    counts = [
        cells(tolerances_table(recorded, 4, loss, 0.02, ["Model3"]), "Model3", "train_loss, last epoch")[4]
        for loss in (1.05, 1.1, 1.3)
    ]
    assert [int(count) for count in counts] == sorted((int(count) for count in counts), reverse=True)
    assert counts[0] != counts[-1]
    assert (
        cells(tolerances_table(recorded, 4, 1.003, 0.02, ["Model3"]), "Model3", "train_loss, last epoch")[4]
        == "out of reach"
    )


def test_the_references_own_seeds_are_allowed_far_less(recorded: Reference) -> None:
    row = cells(tolerances_table(recorded, 4, 1.1, 0.02, ["Model1"]), "Model1", "train_loss, whole curve")
    assert float(row[5].rstrip("%")) < float(row[3].rstrip("%")) / 3
    alone = replace(recorded, replicates=history.frame([]))
    assert cells(tolerances_table(alone, 4, 1.1, 0.02, ["Model1"]), "Model1", "train_loss, whole curve")[5] == "-"


def test_every_clause_has_its_row(recorded: Reference, tmp_path: Path) -> None:
    table = clauses_table(recorded, 4, 1.05, 0.01)
    assert table.count("\n") - 1 == sum(len(j.gating) for j in recorded.judgements)
    row = cells(table, "gelu-beats-relu", "constant lr", "Model3-Model5-loss")
    assert float(row[3].rstrip("x")) == pytest.approx(1.5, rel=0.03)
    assert int(row[5]) > int(row[6]) >= 2, "5% needs more seeds than the half more that is there"
