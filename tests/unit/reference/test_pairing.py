"""Comparing seeds with their own recorded runs, where that is possible."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvbench.reference import verdicts
from kvbench.reference.compare import FAMILY_ERROR, Comparison, compare
from kvbench.reference.store import Reference, load
from kvbench.reference.tolerances import LOSS_FLOOR, SHARE_FLOOR, TOLERANCES
from kvbench.results import history
from kvbench.stats.intervals import shift_interval
from tests.support import DESIGN
from tests.support.references import MEMORY, PRINTS, STREAM, memory_runs, perturbed

# how the sentences about pairing are recognised
PAIRED, MIXED, OTHER_STREAM = (
    "own recorded run",
    "some seeds are the reference's and some are new",
    "other random numbers",
)


@pytest.fixture
def recorded(paired_folder: Path) -> Reference:
    return load(paired_folder, "fractals", DESIGN)


def told(comparison: Comparison) -> list[str]:
    """Which of the sentences about pairing are in the text."""
    return [note for note in (PAIRED, MIXED, OTHER_STREAM) if note in comparison.describe()]


def moved(comparison: Comparison) -> list[str]:
    return [deviation.tolerance.name for deviation in comparison.deviations if deviation.status.failed]


def from_seed(first: int, seeds: int) -> pd.DataFrame:
    """Some of the reference's seeds, and after them new ones."""
    known, new = memory_runs(), memory_runs(first=5)
    rows = pd.concat([known, new], ignore_index=True)
    return rows[rows["seed"].isin(range(first, first + seeds))]


@pytest.mark.parametrize(
    ("first", "seeds", "rng_fingerprint", "note"),
    [
        (0, 5, STREAM, [PAIRED]),
        (1, 2, STREAM, [PAIRED]),  # some of the reference's seeds, one of them without a replicate or not
        (4, 1, STREAM, [PAIRED]),
        (3, 4, STREAM, [MIXED]),
        (5, 3, STREAM, []),  # new ones are the usual case and need no word
        (0, 5, "other", [OTHER_STREAM]),
        (0, 5, "", [OTHER_STREAM]),
        (5, 3, "other", []),
    ],
)
def test_seeds_are_compared_with_themselves_only_if_all_are_known_and_draw_the_same_numbers(
    recorded: Reference, first: int, seeds: int, rng_fingerprint: str, note: list[str]
) -> None:
    comparison = compare(recorded, from_seed(first, seeds), "Model3", PRINTS, rng_fingerprint=rng_fingerprint)
    assert told(comparison) == note
    assert not comparison.failed, comparison.describe()
    assert comparison.judged
    wide = comparison.deviations[1].high / comparison.deviations[1].low > 1.01
    assert wide == (note != [PAIRED])


def test_a_paired_gate_says_so_in_its_row_and_the_note_counts_the_replicates(recorded: Reference) -> None:
    paired = compare(recorded, memory_runs(), "Model3", rng_fingerprint=STREAM)
    assert all(deviation.paired for deviation in paired.deviations)
    assert paired.describe().count("same seeds  ") == len(TOLERANCES)
    assert "allowed is what other rounding does (4 replicates)" in paired.describe()
    assert not any(deviation.paired for deviation in compare(recorded, memory_runs(), "Model3").deviations)


def test_without_replicates_nothing_is_paired(recorded: Reference) -> None:
    without = replace(recorded, replicates=recorded.replicates.iloc[:0])
    comparison = compare(without, memory_runs(), "Model3", rng_fingerprint=STREAM)
    assert told(comparison) == []
    assert comparison.deviations[1].high > 1.02 * comparison.deviations[1].expected
    assert "only 5 reference seeds" in comparison.describe()


def test_a_configuration_without_replicates_is_compared_as_new_and_the_others_are_paired(recorded: Reference) -> None:
    some = replace(recorded, replicates=recorded.replicates[recorded.replicates["configuration"] != "Model4"])
    assert [told(compare(some, memory_runs(), name, rng_fingerprint=STREAM)) for name in MEMORY] == [
        [PAIRED],
        [],
        [PAIRED],
        [PAIRED],
    ]


def test_a_half_percent_that_new_seeds_hide_is_seen_in_the_same_seeds(recorded: Reference) -> None:
    shifted = memory_runs(shift=1.005)
    as_new = compare(recorded, shifted, "Model3", rng_fingerprint="other")
    assert moved(as_new) == []
    assert abs(as_new.deviations[1].in_sds) < 1
    paired = compare(recorded, shifted, "Model3", rng_fingerprint=STREAM)
    assert moved(paired) == ["train_loss, whole curve", "train_loss, last epoch"]
    assert "+0.50%" in paired.describe()
    assert paired.deviations[1].in_sds == pytest.approx(as_new.deviations[1].in_sds)  # the same change either way


@pytest.mark.parametrize(("metric", "step"), [("val_loss", 0.005), ("val_accuracy", -0.005), ("agreement", 0.005)])
def test_a_small_step_of_each_other_metric_is_seen_in_its_gate_alone(
    recorded: Reference, metric: str, step: float
) -> None:
    fresh = memory_runs()
    fresh[metric] += step
    assert moved(compare(recorded, fresh, "Model4", rng_fingerprint=STREAM)) == [f"{metric}, last epoch"]
    assert moved(compare(recorded, fresh, "Model4", rng_fingerprint="other")) == []


def test_the_allowed_shift_is_that_of_the_replicates_over_all_gates_widened_by_the_floor(recorded: Reference) -> None:
    every = memory_runs()
    fresh = every[every["seed"].isin([1, 4])]
    deviations = {o.tolerance.name: o for o in compare(recorded, fresh, "Model5", rng_fingerprint=STREAM).deviations}
    level = 1 - FAMILY_ERROR / (5 * 5)  # five gates of four configurations and of all together
    last = [
        rows[(rows["configuration"] == "Model5") & (rows["epoch"] == 3)].set_index("seed")
        for rows in (recorded.histories, recorded.replicates)
    ]
    originals, replicates = last[0].loc[[0, 1, 2, 3]], last[1]
    own = np.log(last[0].loc[[1, 4], "train_loss"]).mean()
    shift = shift_interval(np.log(replicates["train_loss"]) - np.log(originals["train_loss"]), 2, level)[1]
    found = deviations["train_loss, last epoch"]
    np.testing.assert_allclose(np.log([found.expected, found.low, found.high]),
                               [own, own - shift - LOSS_FLOOR, own + shift + LOSS_FLOOR], atol=1e-9)  # fmt: skip
    shift = shift_interval(replicates["agreement"] - originals["agreement"], 2, level)[1]
    found = deviations["agreement, last epoch"]
    assert found.high - found.expected == pytest.approx(shift + SHARE_FLOOR)
    assert found.expected - found.low == pytest.approx(shift + SHARE_FLOOR)


def test_a_run_that_is_rounded_as_the_replicates_are_passes_and_a_shift_of_ten_times_that_does_not() -> None:
    alarms = {0.0: 0, 0.005: 0}
    known = {"random_numbers": STREAM}
    for trial in range(40):
        histories = memory_runs(["Model3"], first=1000 * trial)
        replicates = perturbed(histories, size=2e-4)
        reference = Reference("fractals", DESIGN, Path(), histories, verdicts.frame([]), known, replicates, "pytest")
        rounding = 2e-4 * np.random.default_rng(trial).normal(size=5)
        for shift in alarms:
            fresh = histories.copy()
            fresh["train_loss"] *= np.exp(rounding[fresh["seed"] - 1000 * trial] + shift)
            alarms[shift] += compare(reference, fresh, "Model3", rng_fingerprint=STREAM).failed
    assert alarms[0.0] <= 3  # at 1% there are 4 or more less than once in 1000 times
    assert alarms[0.005] > 20


def test_the_gates_name_what_is_compared_either_way(recorded: Reference) -> None:
    for rng_fingerprint in (STREAM, "other"):
        comparison = compare(recorded, memory_runs(), "Model3", rng_fingerprint=rng_fingerprint)
        assert [deviation.tolerance for deviation in comparison.deviations] == list(TOLERANCES)
        assert all(math.isfinite(deviation.excess) for deviation in comparison.deviations)


def test_few_reference_seeds_matter_to_new_ones_only(recorded: Reference) -> None:
    assert "only 5 reference seeds" not in compare(recorded, memory_runs(), "Model3", rng_fingerprint=STREAM).describe()
    assert (
        "only 5 reference seeds"
        in compare(recorded, memory_runs(first=50), "Model3", rng_fingerprint=STREAM).describe()
    )


def test_seeds_on_both_sides_of_the_reference_are_called_mixed(recorded: Reference) -> None:
    later = memory_runs()
    later["seed"] += 2
    moved_up = replace(recorded, histories=later, replicates=perturbed(later))
    assert history.seeds(later) == [2, 3, 4, 5, 6]
    assert told(compare(moved_up, memory_runs(), "Model3", rng_fingerprint=STREAM)) == [MIXED]
