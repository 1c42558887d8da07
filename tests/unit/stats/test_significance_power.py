from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtrit

from kvbench.stats.significance import MOST_SEEDS, POWER, new_seeds_for, power, seeds_for, smallest, smallest_effect

TRIALS = 20_000
LEVELS = (0.05, 0.01, 0.01 / 15)


def simulated(effect: float, spread: float, count: int, level: float) -> float:
    """How often a one-sided t test of normal margins sees an effect."""
    margins = np.random.default_rng(count).normal(effect, spread, (TRIALS, count))
    t = margins.mean(axis=1) / (margins.std(axis=1, ddof=1) / math.sqrt(count))
    return float(np.mean(t >= stdtrit(count - 1, 1 - level)))


@pytest.mark.parametrize(("effect", "spread", "count", "level"), [
    (0.0, 1.0, 5, 0.05), (0.3, 0.3, 4, 0.01), (0.3, 0.3, 8, 0.01), (0.02, 0.03, 20, 0.01 / 15), (1.0, 3.0, 30, 0.05),
])  # fmt: skip
def test_power_is_what_a_simulation_finds(effect: float, spread: float, count: int, level: float) -> None:
    found = power(effect, spread, count - 1, 1 / math.sqrt(count), level)
    assert found == pytest.approx(simulated(effect, spread, count, level), abs=4 * math.sqrt(0.25 / TRIALS))


def test_power_is_the_level_without_an_effect_and_grows_with_effect_seeds_and_level() -> None:
    assert power(0.0, 1.0, 7, 8**-0.5, 0.01) == pytest.approx(0.01)
    for smaller, larger in ((0.5, 0.6), (0.1, 2.0)):
        assert power(smaller, 1.0, 7, 8**-0.5, 0.01) < power(larger, 1.0, 7, 8**-0.5, 0.01)
    assert power(0.5, 1.0, 7, 8**-0.5, 0.01) < power(0.5, 1.0, 7, 8**-0.5, 0.05)
    assert power(0.5, 1.0, 7, 8**-0.5, 0.01) < power(0.5, 1.0, 11, 12**-0.5, 0.01)
    assert power(0.5, 1.0, 7, 8**-0.5, 0.01) == pytest.approx(power(5, 10, 7, 8**-0.5, 0.01))  # of any scale


def test_without_spread_any_effect_is_seen() -> None:
    assert power(1e-9, 0.0, 3, 0.5, 0.01) == 1
    assert power(0.0, 0.0, 3, 0.5, 0.01) == 0
    assert smallest_effect(0.0, 4, 0.01) == 0
    assert seeds_for(1e-9, 0.0, 0.01) == 2


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("level", LEVELS)
def test_the_smallest_effect_is_seen_4_times_in_5(count: int, level: float) -> None:
    effect = smallest_effect(0.3, count, level)
    assert simulated(effect, 0.3, count, level) == pytest.approx(POWER, abs=4 * math.sqrt(0.16 / TRIALS))


def test_the_smallest_effect_shrinks_with_seeds_and_grows_with_spread_and_strictness() -> None:
    effects = [smallest_effect(1.0, count, 0.01) for count in range(2, 30)]
    assert effects == sorted(effects, reverse=True)
    assert smallest_effect(2.0, 6, 0.01) == pytest.approx(2 * smallest_effect(1.0, 6, 0.01))
    strict = [smallest_effect(1.0, 6, level) for level in LEVELS]
    assert strict == sorted(strict)


@pytest.mark.parametrize(("effect", "spread"), [(1.0, 1.0), (0.5, 1.0), (0.02, 0.05), (0.25, 1.0)])
@pytest.mark.parametrize("level", LEVELS)
def test_the_seeds_for_an_effect_are_the_fewest_that_see_it_4_times_in_5(
    effect: float, spread: float, level: float
) -> None:
    count = seeds_for(effect, spread, level)
    assert count is not None
    slack = 4 * math.sqrt(0.16 / TRIALS)
    assert simulated(effect, spread, count, level) >= POWER - slack
    assert simulated(effect, spread, count - 1, level) < POWER + slack
    assert smallest_effect(spread, count, level) <= effect < smallest_effect(spread, count - 1, level)


def test_fewer_seeds_do_for_a_larger_effect() -> None:
    counts = [seeds_for(effect, 1.0, 0.01) for effect in (0.2, 0.3, 0.5, 0.8, 1.5, 3.0)]
    assert None not in counts
    assert counts == sorted(counts, key=lambda count: -(count or 0))


def test_more_seeds_than_can_be_counted_on_are_none() -> None:
    assert seeds_for(0.0, 1.0, 0.01) is None
    assert seeds_for(-0.1, 1.0, 0.01) is None
    assert seeds_for(1e-4, 1.0, 0.01) is None
    least = smallest_effect(1.0, MOST_SEEDS, 0.01)
    assert seeds_for(least * 1.0001, 1.0, 0.01) == MOST_SEEDS
    assert seeds_for(least * 0.9999, 1.0, 0.01) is None


def shifted_out(effect: float, recorded: int, fresh: int, level: float) -> float:
    """How often fresh seeds, shifted by an effect, lie above a one-sided prediction interval of the recorded ones."""
    draw = np.random.default_rng(recorded)
    old, new = draw.normal(size=(TRIALS, recorded)), draw.normal(effect, 1, (TRIALS, fresh))
    half = stdtrit(recorded - 1, 1 - level) * old.std(axis=1, ddof=1) * math.sqrt(1 / recorded + 1 / fresh)
    return float(np.mean(new.mean(axis=1) > old.mean(axis=1) + half))


@pytest.mark.parametrize(("recorded", "fresh"), [(5, 3), (20, 4), (20, 1)])
def test_the_smallest_shift_leaves_a_prediction_interval_4_times_in_5(recorded: int, fresh: int) -> None:
    effect = smallest(1.0, recorded - 1, math.sqrt(1 / recorded + 1 / fresh), 0.005)
    assert shifted_out(effect, recorded, fresh, 0.005) == pytest.approx(POWER, abs=4 * math.sqrt(0.16 / TRIALS))
    assert new_seeds_for(effect * 1.0001, 1.0, recorded, 0.005) == fresh
    assert new_seeds_for(effect * 0.9999, 1.0, recorded, 0.005) == fresh + 1


def test_too_few_recorded_seeds_can_not_be_made_up_for_by_new_ones() -> None:
    least = smallest(1.0, 7, math.sqrt(1 / 8), 0.005)  # were there ever so many new ones
    assert new_seeds_for(least * 0.99, 1.0, 8, 0.005) is None
    assert new_seeds_for(least * 1.02, 1.0, 8, 0.005) is not None
    assert new_seeds_for(0.0, 1.0, 8, 0.005) is None
    assert new_seeds_for(1e-9, 0.0, 8, 0.005) == 1


def test_power_is_scipys_noncentral_t_wherever_the_effect_lies() -> None:
    for count in (2, 5, 11, 33, 63, 200):
        for effect in np.geomspace(0.05, 30, 25):
            for level in LEVELS:
                theirs = stats.nct.sf(stdtrit(count - 1, 1 - level), count - 1, effect * math.sqrt(count))
                assert power(effect, 1.0, count - 1, count**-0.5, level) == pytest.approx(theirs, abs=1e-6)


def test_an_effect_of_five_deviations_needs_five_seeds_at_most() -> None:
    assert [seeds_for(5.0, 1.0, level) for level in LEVELS] == [3, 4, 5]
