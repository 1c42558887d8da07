"""Clean replays: how they are made of seeds, what counts as an alarm, and what can be said about the rate."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy.stats import binom

from kvbench.mutation import replays
from kvbench.mutation.report import alarms_list, verdicts_table
from kvbench.reference.store import Reference
from kvbench.results import history
from tests.support import synthetic


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return synthetic.reference(tmp_path_factory.mktemp("replays"))


def test_replays_apart_share_no_seed_and_leave_a_rest_out(recorded: Reference) -> None:
    clean = synthetic.runs(range(100, 111))
    made = [history.seeds(fresh) for _, fresh, _ in replays.disjoint(recorded, clean, 4)]
    assert made == [[100, 101, 102, 103], [104, 105, 106, 107]]


def test_drawn_replays_have_as_many_seeds_and_are_the_same_every_time(recorded: Reference) -> None:
    clean = synthetic.runs(range(100, 110))
    made = [history.seeds(fresh) for _, fresh, _ in replays.resampled(recorded, clean, 4, 5)]
    assert all(len(seeds) == 4 for seeds in made)
    assert made == [history.seeds(fresh) for _, fresh, _ in replays.resampled(recorded, clean, 4, 5)]
    assert len({tuple(seeds) for seeds in made}) > 1


def test_redrawn_replays_deal_all_seeds_between_reference_and_run(recorded: Reference) -> None:
    clean = synthetic.runs(range(100, 106))
    for against, fresh, rng_fingerprint in replays.reshuffled(recorded, clean, 4, 5):
        assert rng_fingerprint == ""
        assert len(history.seeds(fresh)) == 4
        assert sorted([*history.seeds(fresh), *history.seeds(against.histories)]) == [*range(20), *range(100, 106)]
        assert against.replicates.empty


def test_a_verdict_that_turns_is_an_alarm_of_its_own_kind(recorded: Reference) -> None:
    fresh = synthetic.runs(range(100, 104))
    swap = {"Model1": "Model3", "Model3": "Model1"}
    turned = fresh.assign(configuration=[swap.get(name, name) for name in fresh["configuration"]])
    counted = replays.count("turned", recorded, iter([(recorded, turned, "")]), independent=True)
    assert (counted.drifted, counted.verdicts, counted.any) == (1, 1, 1)


@pytest.mark.parametrize(("alarms", "runs"), [(0, 5), (0, 300), (2, 40)])
def test_the_bound_is_clopper_and_pearsons(alarms: int, runs: int) -> None:
    bound = replays.FalseAlarms("", runs, alarms, 0, 0, alarms, 0.0, 0.5, True).bound
    # At the bound, as few alarms as were seen have a chance of 5%.
    assert binom.cdf(alarms, runs, bound) == pytest.approx(0.05)


def test_runs_that_share_seeds_get_no_bound() -> None:
    shared = replays.FalseAlarms("drawn", 200, 1, 0, 0, 1, 0.0, 1.2, False)
    assert math.isnan(shared.bound)
    assert "none: runs share seeds" in " ".join(alarms_list([shared]).split())
    ways = "1 by a tolerance, 0 by all configurations together, 0 by a verdict"
    assert f"1 false alarm ({ways})" in " ".join(alarms_list([shared]).split())


def test_no_runs_are_no_evidence(recorded: Reference) -> None:
    none = replays.count("none", recorded, iter([]), independent=True)
    assert (none.runs, none.any) == (0, 0)
    assert math.isnan(none.bound)


def test_runs_that_judge_as_recorded_are_counted(recorded: Reference) -> None:
    fresh = recorded.histories
    swap = {"Model1": "Model3", "Model3": "Model1"}
    turned = fresh.assign(configuration=[swap.get(name, name) for name in fresh["configuration"]])
    both = iter([(recorded, fresh, ""), (recorded, turned, "")])
    counted = replays.count("both", recorded, both, independent=True)
    times = {row[:2]: row[3] for row in counted.as_recorded}
    assert set(times) == {*zip(recorded.recorded["finding"], recorded.recorded["recipe"], strict=True)}
    assert (times["simple-converges-faster", "StepLR"], times["simple-converges-faster", "constant lr"]) == (2, 1)
    assert set(times.values()) <= {1, 2}
    line = "| simple-converges-faster | constant lr | holds | 1 of 2 |"
    assert line in " ".join(verdicts_table(counted).split())


def test_a_reference_of_drawn_numbers_is_whole(recorded: Reference, tmp_path: Path) -> None:
    assert history.seeds(recorded.replicates) == [*range(6)]
    assert len(recorded.judgements) == 15
