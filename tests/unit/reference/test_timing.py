"""Seconds as ratios inside a run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from kvbench.reference.status import Status
from kvbench.reference.timing import timings
from kvbench.reporting.report import seconds
from tests.support import DESIGN, synthetic

RECORDED = synthetic.runs(range(10))


def slowed(name: str, factor: float) -> pd.DataFrame:
    fresh = synthetic.runs(range(50, 54))
    fresh.loc[fresh["configuration"] == name, "seconds"] *= factor
    return fresh


def test_a_machine_that_is_ten_times_slower_has_the_same_paces() -> None:
    fresh = synthetic.runs(range(50, 54))
    slow = fresh.assign(seconds=fresh["seconds"] * 10)
    assert [p.obtained for p in timings(slow, RECORDED)] == pytest.approx(
        [p.obtained for p in timings(fresh, RECORDED)]
    )
    assert {p.status for p in timings(slow, RECORDED)} == {Status.WITHIN}
    assert math.prod(p.obtained for p in timings(fresh, RECORDED)) == pytest.approx(1)


def test_one_configuration_that_got_slower_or_faster_is_named() -> None:
    slow = {p.configuration: p.status for p in timings(slowed("Model3", 2), RECORDED)}
    assert slow.pop("Model3") == Status.SLOWER
    assert set(slow.values()) == {Status.WITHIN}
    assert {p.configuration: p.status for p in timings(slowed("Model3", 0.4), RECORDED)}["Model3"] == Status.FASTER
    assert {p.status for p in timings(slowed("Model3", 1.1), RECORDED)} == {Status.WITHIN}


def test_an_epoch_that_stalled_moves_nothing() -> None:
    fresh = synthetic.runs(range(50, 54))
    fresh.loc[(fresh["configuration"] == "Model1") & (fresh["epoch"] == 2), "seconds"] *= 100
    assert {p.status for p in timings(fresh, RECORDED)} == {Status.WITHIN}


def test_one_recorded_seed_tells_no_spread() -> None:
    made = timings(synthetic.runs(range(2)), synthetic.runs([7]))
    assert {p.status for p in made} == {Status.NOT_JUDGED}
    assert all(math.isnan(p.high) for p in made)


def test_what_was_not_timed_has_no_pace() -> None:
    fresh = synthetic.runs(range(2))
    fresh.loc[fresh["configuration"] == "Model1", "seconds"] = np.nan
    assert "Model1" not in {p.configuration for p in timings(fresh, RECORDED)}
    assert len(timings(fresh, RECORDED)) == 13
    assert timings(fresh[fresh["configuration"] == "Model2"], RECORDED) == []
    assert timings(fresh.assign(seconds=np.nan), RECORDED) == []


def test_seeds_that_were_not_timed_are_left_out() -> None:
    some = RECORDED.assign(seconds=RECORDED["seconds"].where(RECORDED["seed"] < 4))
    fresh = synthetic.runs(range(50, 54))
    assert timings(fresh, some) == timings(fresh, synthetic.runs(range(4)))


def test_the_table_shows_them_beside_the_seconds() -> None:
    fresh = slowed("Model3", 2)
    told = seconds(fresh, DESIGN, timings(fresh, RECORDED))
    (row,) = [line for line in told.splitlines() if line.startswith("| Model3 ")]
    assert Status.SLOWER in row
    assert "fails no run" in told
    assert Status.SLOWER not in seconds(fresh, DESIGN)
