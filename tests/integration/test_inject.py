"""Faults injected into runs of the small workload, and what a run notices of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvbench.core.models import STUDENTS
from kvbench.core.recipe import configurations
from kvbench.core.trainer import Run, Training
from kvbench.harness.record import made_from
from kvbench.harness.setup import Settings
from kvbench.mutation.faults import CATALOGUE, Fault
from kvbench.mutation.inject import Laboratory, Trial
from kvbench.mutation.report import detection_table, page, summary, unseen_table
from kvbench.reference import update as updating
from kvbench.reference.store import load
from kvbench.results import history
from kvbench.utils.environment import environment, rng_fingerprint
from tests.support.small import SMALL

CPU = torch.device("cpu")
TRAINED = ("Model1", "lr_Model1", "Model3", "Model7")


@pytest.fixture(scope="module")
def laboratory(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """The small workload with a reference of 8 seeds and 4 replicates of some configurations."""
    folder = tmp_path_factory.mktemp("detection")
    settings = Settings(SMALL, CPU, folder / "cache", checkpoint=small_checkpoint)
    banks = settings.open_banks()
    rows, replicates = [], []
    for row in configurations(list(STUDENTS), SMALL.recipe):
        if row.id in TRAINED:
            others = [Run(row, *banks.perturbed, seed) for seed in range(4)]
            training = Training(row, banks.train, banks.val, range(8), replicates=others)
            training.finish()
            rows += training.history
            replicates += training.replicate_history
    facts = {"fingerprints": made_from(SMALL, banks), **environment(CPU)}
    updating.update(folder, "small", history.frame(rows), facts, full=True, replicates=history.frame(replicates))
    return Laboratory(settings, load(folder, "small"), (0, 1))


def test_without_a_fault_nothing_is_noticed(laboratory: Laboratory) -> None:
    for name in TRAINED:
        trial = laboratory.trial(Fault("none", "nothing goes wrong", nullcontext, (name,)))
        assert not trial.changed
        assert not trial.noticed
        assert not trial.noticed_unpaired
        assert trial.stopped == ""
        assert all(comparison.outcomes for comparison in trial.paired), "nothing was compared"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lr-x2", "train_loss"),
        ("taps-swapped", "train_loss"),
        ("labels-for-logits", "train_loss"),
        ("kl-reversed", "train_loss"),
        ("relu-for-gelu", "train_loss"),
        ("residual-dropped", "train_loss"),
        ("scheduler-never", "train_loss"),
        ("one-order-of-batches", "train_loss"),
        ("hook-before-relu", "train_loss"),
        ("validation-cut", "val_loss"),
        ("validation-on-training-data", "val_loss"),
    ],
)
def test_a_fault_is_noticed_where_it_acts_and_nowhere_else(laboratory: Laboratory, name: str, place: str) -> None:
    trial = laboratory.trial(CATALOGUE[name])
    assert trial.changed
    assert trial.noticed
    assert trial.innocent
    assert trial.stopped == "", "it was refused before anything was compared"
    assert place in {metric for comparison in trial.paired for metric in comparison.moved}
    if place != "train_loss":
        assert all("train_loss" not in comparison.moved for comparison in trial.paired)


def test_a_fault_outside_its_probes_is_found_and_what_is_clean_stays_clean(laboratory: Laboratory) -> None:
    fresh = replace(laboratory, _clean={})
    trial = fresh.trial(replace(CATALOGUE["residual-dropped"], probes=("lr_Model1",), bystanders=()))
    assert trial.changed
    assert trial.noticed
    assert trial.paired[-1].configuration == "Model7"
    assert not fresh.trial(Fault("none", "nothing goes wrong", nullcontext, ("Model7",))).changed


def test_a_run_that_is_refused_is_noticed_by_its_sentence(laboratory: Laboratory) -> None:
    trial = laboratory.trial(CATALOGUE["epochs-from-zero"])
    assert "epoch is 0; valid is an integer from 1" in trial.stopped
    assert trial.noticed
    assert trial.noticed_unpaired


@pytest.mark.parametrize("name", [name for name, row in CATALOGUE.items() if row.unseen and "seconds" not in name])
def test_what_can_not_be_seen_changes_no_number(laboratory: Laboratory, name: str) -> None:
    assert SMALL.train_count is not None
    assert SMALL.train_count % SMALL.recipe.batch_size == 0
    trial = laboratory.trial(CATALOGUE[name])
    assert not trial.changed
    assert not trial.noticed


def test_a_seed_compared_with_itself_shows_what_new_seeds_hide(laboratory: Laboratory) -> None:
    trial = laboratory.trial(replace(CATALOGUE["lr-x1.05"], probes=("Model3",)))
    assert trial.noticed
    paired, unpaired = trial.strongest(trial.paired), trial.strongest(trial.unpaired)
    assert paired is not None
    assert unpaired is not None
    assert paired[1].excess > 2 * unpaired[1].excess


def test_a_fault_that_patches_random_numbers_does_not_hide_behind_another_stream(laboratory: Laboratory) -> None:
    assert laboratory.rng_fingerprint == rng_fingerprint() == laboratory.reference.rng_fingerprint
    trial = laboratory.trial(CATALOGUE["shuffling-off"])
    assert "each with its own recorded run" in trial.paired[0].describe()
    assert trial.noticed


def test_the_page_has_every_fault_with_its_outcome(laboratory: Laboratory) -> None:
    trials = [laboratory.trial(CATALOGUE[name]) for name in ("lr-x2", "epochs-from-zero", "zeroed-gradients")]
    missed = Trial(CATALOGUE["eps-1e-6"], changed=True, paired=trials[0].paired[:0])
    assert summary(trials).startswith("2 of 2 faults that change a result are noticed by the default run (100%;")
    assert summary([*trials, missed]).endswith("Missed: eps-1e-6.")
    told = page(trials, [], laboratory, environment(CPU), "kvbench detect")
    assert "| lr-x2 " in told
    assert "the run stops" in detection_table(trials)
    assert "| zeroed-gradients | " in unseen_table(trials)
    assert "zeroed-gradients" not in detection_table(trials)
    assert "reference of 8 seeds" in told
