"""Wrong verdicts on findings whose truth is known: what counts as wrong, and how rarely it comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from kvbench.findings.judge import FAMILY_ERROR
from kvbench.mutation.known_truth import SURE, World, borderline, permuted, simulate, worlds
from kvbench.stats.significance import power
from tests.support import synthetic

SEEDS, RUNS = 5, 40


@pytest.mark.parametrize("world", worlds(SEEDS), ids=lambda world: world.name)
def test_wrong_verdicts_are_as_rare_as_promised(world: World) -> None:
    error = 0.1  # so that few runs tell
    counted = simulate(world, RUNS, SEEDS, error=error)
    assert counted.runs == RUNS
    assert counted.wrong <= binom.isf(1e-3, RUNS, error)


def test_a_test_that_takes_every_level_is_often_wrong() -> None:
    assert simulate(worlds(SEEDS)[0], 10, SEEDS, error=0.99).wrong > 5


def test_sure_effects_come_out_as_they_are() -> None:
    counted = simulate(worlds(SEEDS)[5], 5, SEEDS)
    assert (counted.wrong, counted.decided, counted.decidable) == (0, 75, 75)


def test_a_finding_that_has_no_truth_is_not_decidable() -> None:
    counted = simulate(World("one", ((SURE, 0.0), (SURE,))), 3, SEEDS)
    assert (counted.decided, counted.decidable) == (3, 3)


def test_what_is_wrong_is_counted_once_a_run() -> None:
    certain: list[World] = [
        World("holds though a clause is false", ((-1e-9, SURE), (-1e-9,)), lambda _, seeds, __: _lifted(seeds, 3)),
        World("fails though it is true", ((1e-9,), (1e-9,)), lambda _, seeds, __: -_lifted(seeds, 2)),
    ]
    for world in certain:
        assert simulate(world, 4, SEEDS).wrong == 4


def _lifted(seeds: int, clauses: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return SURE + np.linspace(-1, 1, seeds)[:, None] * np.ones((1, clauses))


def test_a_borderline_effect_is_seen_half_of_the_time() -> None:
    seen = power(borderline(SEEDS), 1, SEEDS - 1, SEEDS**-0.5, FAMILY_ERROR / 15)
    assert seen == pytest.approx(0.5)


def test_permuted_labels_keep_how_clauses_depend_and_take_away_what_they_show(tmp_path: Path) -> None:
    recorded = synthetic.reference(tmp_path).judgements
    noise = permuted(recorded)
    draws = np.concatenate([noise(np.random.default_rng(i), SEEDS, 0) for i in range(200)])
    clauses = [clause for judgement in recorded for clause in judgement.gating]
    assert draws.shape == (200 * SEEDS, len(clauses))
    spread = np.array([clause.spread for clause in clauses])
    assert (np.abs(draws.mean(axis=0)) < 0.2 * spread).all()
    kept = np.corrcoef([list(clause.margins.values()) for clause in clauses[:6]])
    np.testing.assert_allclose(np.corrcoef(draws[:, :6].T), kept, atol=0.25)
    assert worlds(SEEDS, recorded)[-1].name.endswith("permuted labels")
    assert simulate(worlds(SEEDS, recorded)[-1], 2, SEEDS).runs == 2
