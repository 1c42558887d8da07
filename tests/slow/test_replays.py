"""False alarms of replays, counted on many drawn runs."""

from __future__ import annotations

import pytest

from kvbench.mutation import replays
from kvbench.reference.store import Reference
from kvbench.results import history
from tests.support import synthetic


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return synthetic.reference(tmp_path_factory.mktemp("replays"))


def test_clean_runs_of_new_seeds_raise_no_alarm_and_moved_ones_do(recorded: Reference) -> None:
    clean, moved = synthetic.runs(range(100, 120)), synthetic.runs(range(100, 120), shift=0.2)
    quiet = replays.count("clean", recorded, replays.disjoint(recorded, clean, 4), independent=True)
    assert (quiet.runs, quiet.drifted, quiet.verdicts, quiet.any) == (5, 0, 0, 0)
    assert 0 < quiet.largest_excess < 1
    loud = replays.count("moved", recorded, replays.disjoint(recorded, moved, 4), independent=True)
    assert (loud.runs, loud.drifted, loud.any) == (5, 5, 5)
    assert loud.largest_excess > 1
    assert loud.bound == 1


def test_replays_of_the_references_seeds_are_compared_with_themselves(recorded: Reference) -> None:
    names = history.configurations(recorded.histories)
    again = [synthetic.runs(range(4), names, jitter=0.01 + 0.001 * i) for i in range(3)]
    quiet = replays.count("same", recorded, replays.perturbed(recorded, again, "here"), independent=True)
    assert (quiet.runs, quiet.any) == (3, 0)
    shifted = [synthetic.runs(range(4), names, shift=0.01)]  # half a standard deviation between seeds
    loud = replays.count("same", recorded, replays.perturbed(recorded, shifted, "here"), independent=True)
    assert loud.drifted == 1
    hidden = replays.count("new", recorded, replays.perturbed(recorded, shifted, ""), independent=True)
    assert hidden.drifted == 0


def test_replicates_are_split_in_every_way_and_never_compared_with_themselves(recorded: Reference) -> None:
    made = [*replays.split_replicates(recorded)]
    assert len(made) == 20
    for against, fresh, rng_fingerprint in made:
        assert rng_fingerprint == recorded.rng_fingerprint == "here"
        assert sorted([*history.seeds(fresh), *history.seeds(against.replicates)]) == [*range(6)]
    quiet = replays.count("halved", recorded, iter(made), independent=False)
    assert (quiet.runs, quiet.drifted) == (20, 0)
