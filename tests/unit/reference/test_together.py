"""All configurations as one: small shifts in the same direction, and how rarely there are any by chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from kvbench.harness.collector import Collector
from kvbench.reference.compare import compare
from kvbench.reference.store import Reference
from kvbench.reference.together import compare_together
from kvbench.reference.tolerances import TOLERANCES
from kvbench.results import history
from kvbench.results.saved import Outcome
from kvbench.stats.intervals import prediction_interval, standardized_sum
from tests.support import DESIGN, synthetic

NEW = range(100, 105)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return synthetic.reference(tmp_path_factory.mktemp("together"))


def test_a_shift_of_all_configurations_is_seen_that_none_shows_alone(recorded: Reference) -> None:
    fresh = synthetic.runs(NEW, shift=0.02)  # one standard deviation between seeds
    assert not any(compare(recorded, fresh, name).failed for name in synthetic.ALL)
    together = compare_together(recorded, fresh)
    assert [one.tolerance for one in together] == list(TOLERANCES)
    assert {one.tolerance.metric for one in together if one.failed} == {"train_loss", "val_loss"}
    first = together[0]
    assert 0.6 < first.shift < 1.2
    assert first.excess == pytest.approx(first.shift / first.allowed)
    assert first.describe().startswith("train_loss, whole curve: over all 14 configurations together it is +")


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASSED), (0.02, Outcome.FAILED)])
def test_a_session_fails_by_all_configurations_together(tmp_path: Path, shift: float, outcome: Outcome) -> None:
    synthetic.reference(tmp_path)
    collector = Collector("synthetic", DESIGN, tuple(NEW), tmp_path, "pytest", "pytest", update=False)
    for name in synthetic.ALL:
        rows = synthetic.runs(NEW, [name], shift=shift).to_dict("records")
        made = {"fingerprints": {}, "random_numbers": "here", "recipe": {"epochs": 3}, "replicate_history": []}
        collector.absorb(name, name, "passed", {"configuration": name, "seeds": [*NEW], "history": rows, **made})
    result = collector.finish(tests_failed=False, interrupted=False)
    assert not result.names(Outcome.FAILED)
    assert bool(result.reasons) == (outcome is Outcome.FAILED)
    assert all("over all 14 configurations together" in reason for reason in result.reasons)


def test_new_seeds_without_a_change_are_within(recorded: Reference) -> None:
    assert not any(one.failed for one in compare_together(recorded, synthetic.runs(NEW)))


def test_shifts_that_cancel_are_not_for_all_together(recorded: Reference) -> None:
    fresh = synthetic.runs(NEW)
    up = fresh["configuration"].isin(synthetic.ALL[::2])
    fresh["train_loss"] *= np.where(up, np.exp(0.02), np.exp(-0.02))
    assert not any(one.failed for one in compare_together(recorded, fresh))


def test_seeds_that_repeat_are_compared_with_themselves_instead(recorded: Reference) -> None:
    again = synthetic.runs(range(5), shift=0.02)
    assert compare_together(recorded, again, recorded.rng_fingerprint) == ()
    assert any(one.failed for one in compare_together(recorded, again, "another stream"))


def test_nothing_is_said_of_a_part_of_the_configurations(recorded: Reference) -> None:
    assert compare_together(recorded, synthetic.runs(NEW, synthetic.ALL[1:])) == ()
    one = replace(recorded, histories=history.of(recorded.histories, "Model1"))
    assert compare_together(one, synthetic.runs(NEW, shift=0.2)) == ()


def test_a_number_that_is_missing_is_left_to_its_configuration(recorded: Reference) -> None:
    fresh = synthetic.runs(NEW)
    fresh.loc[fresh.index[-1], "val_loss"] = np.nan
    assert "val_loss" not in {one.tolerance.metric for one in compare_together(recorded, fresh)}


@pytest.mark.parametrize("common", [0.0, 0.8])  # how much columns depend on each other
def test_the_sums_t_test_is_exact_whatever_the_correlations(common: float) -> None:
    draw = np.random.default_rng(0)
    trials, level, outside = 4000, 0.05, 0
    scales = np.exp(draw.normal(0, 2, 14))
    for _ in range(trials):
        own, shared = draw.normal(size=(25, 14)), draw.normal(size=(25, 1))
        rows = scales * (np.sqrt(common) * shared + np.sqrt(1 - common) * own)
        first, second, _ = standardized_sum(rows[:20], rows[20:])
        low, high = prediction_interval(first, 5, 1 - level)
        outside += not low <= second.mean() <= high
    assert binom.ppf(1e-3, trials, level) <= outside <= binom.ppf(1 - 1e-3, trials, level)


def test_a_sum_counts_columns_alike_and_those_without_spread_not_at_all() -> None:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(9, 3)) * [1.0, 1000.0, 0.0]
    first, second, scale = standardized_sum(rows[:6], rows[6:])
    spread = rows[:, :2].std(axis=0, ddof=1)
    np.testing.assert_allclose(np.concatenate([first, second]), (rows[:, :2] / spread).sum(axis=1) / 3)
    assert scale == pytest.approx((1 / spread).sum() / 3)


@pytest.mark.parametrize("count", [200, None])
def test_shares_that_are_of_other_images_are_refused(recorded: Reference, count: int | None) -> None:
    def of(images: int, seeds: range) -> Reference:
        rows = synthetic.runs(seeds)
        shares = {name: (rows[name] * images).round() / images for name in history.SHARES}
        return replace(recorded, histories=rows.assign(**shares), provenance={"val_count": count})

    known, fewer = of(200, range(20)), of(184, NEW).histories
    problems = compare(known, fewer, "Model1").problems
    assert bool(problems) == (count is not None)
    assert not compare(known, of(200, NEW).histories, "Model1").problems
    assert not compare(of(7919, range(20)), fewer, "Model1").problems, "the recorded ones are no shares either"


def test_two_seeds_with_the_same_results_are_refused(recorded: Reference) -> None:
    fresh = synthetic.runs(NEW)
    first = history.of(fresh, "Model1")
    one = first[first["seed"] == 100]
    copied = pd.concat([one, one.assign(seed=101)], ignore_index=True)
    (problem,) = compare(recorded, copied, "Model1").problems
    assert problem.startswith("seeds 100 and 101 have the same results, digit by digit")
    alike = replace(
        recorded, histories=recorded.histories.assign(train_loss=0.5, val_loss=0.5, val_accuracy=0.5, agreement=0.5)
    )
    assert not compare(alike, alike.histories, "Model1").problems
