"""Faults injected into runs of the small workload, and what a run notices of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness.record import made_from, probes, projections
from kvbench.harness.setup import Settings
from kvbench.mutation.faults import FAULTS, Fault
from kvbench.mutation.injector import FaultInjector, FaultResult
from kvbench.mutation.report import controls, detection_table, equivalent_table, page, summary
from kvbench.reference.store import load
from kvbench.reference.update import update
from kvbench.results import history
from kvbench.utils.environment import environment, rng_fingerprint
from kvbench.utils.progress import Progress
from tests.support.small import EXPERIMENT, SMALL

CPU = torch.device("cpu")
TRAINED = ("Model1", "lr_Model1", "Model3", "Model7")


@pytest.fixture(scope="module")
def injector(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> FaultInjector:
    """The small workload with a reference of 8 seeds and 4 replicates of some configurations."""
    folder = tmp_path_factory.mktemp("detection")
    settings = Settings(SMALL, CPU, folder / "cache", checkpoint=small_checkpoint)
    banks = settings.open_banks()
    rows, replicates = [], []
    for row in EXPERIMENT.configurations:
        if row.id in TRAINED:
            others = [Run(row, *banks.perturbed, seed) for seed in range(4)]
            training = Training(row, banks.train, banks.val, range(8), replicates=others)
            training.finish()
            rows += training.history
            replicates += training.replicate_history
    facts = {"fingerprints": made_from(EXPERIMENT, banks), "val_count": SMALL.val_count, **environment(CPU)}
    update(
        folder, "small", EXPERIMENT.design, history.frame(rows), facts, full=True, replicates=history.frame(replicates)
    )
    return FaultInjector(EXPERIMENT, settings, load(folder, "small", EXPERIMENT.design), (0, 1))


def test_without_a_fault_nothing_is_noticed(injector: FaultInjector) -> None:
    for tag in ("simple", "memory", "residual chain"):
        result = injector.test(Fault("none", "nothing goes wrong", nullcontext, (tag,)))
        assert not result.changed
        assert not result.detected
        assert not any(number.failed for number in result.together)
        assert result.error == ""
        assert all(comparison.deviations for comparison in result.paired), "nothing was compared"


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
        ("validation-on-training-data", "val_loss"),
        ("moments-lost", "train_loss"),
        ("warm-up", "train_loss"),
        ("smoothed-targets", "train_loss"),
        ("normal-init", "train_loss"),
        ("feature-noise", "train_loss"),
    ],
)
def test_a_fault_is_noticed_where_it_acts_and_nowhere_else(injector: FaultInjector, name: str, place: str) -> None:
    result = injector.test(FAULTS[name])
    assert result.changed
    assert result.detected
    assert result.controls_unchanged
    assert result.error == "", "it was refused before anything was compared"
    assert place in {metric for comparison in result.paired for metric in comparison.drifted}
    if place != "train_loss":
        assert all("train_loss" not in comparison.drifted for comparison in result.paired)


def test_a_fault_outside_its_probes_is_found_and_what_is_clean_stays_clean(injector: FaultInjector) -> None:
    result = injector.test(replace(FAULTS["residual-dropped"], probes=("",), controls=()))
    assert result.changed
    assert result.detected
    assert [comparison.configuration for comparison in result.paired] == ["Model1", "Model7"]
    assert not injector.test(Fault("none", "nothing goes wrong", nullcontext, ("residual chain",))).changed


@pytest.mark.parametrize("name", ["channels-swapped", "features-in-bf16", "feature-noise"])
def test_other_features_are_noticed_before_anything_is_trained(
    injector: FaultInjector, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = Run(EXPERIMENT.configurations[-1], injector.banks.train, injector.banks.val, 0)
    recorded = projections(run, injector.banks.fingerprints)
    provenance = {**injector.reference.provenance, "projections": recorded}
    known = replace(injector, reference=replace(injector.reference, provenance=provenance))
    monkeypatch.delattr(Training, "finish")
    result = known.test(FAULTS[name])
    assert result.detected
    assert result.detected_unpaired
    assert result.paired == ()
    assert f"| {name}" in detection_table([result])
    assert "% away" in detection_table([result])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gelu-tanh", "Model3 outputs"),
        ("memory-transposed", "Model7 outputs"),
        ("scores-in-bf16", "Model3 outputs"),
        ("eps-1e-6", "Model1 steps"),
        ("weight-decay-skips-biases", "Model1 steps"),
        ("bias-missing", "Model1 gradients"),
    ],
)
def test_another_student_is_noticed_before_anything_is_trained(
    injector: FaultInjector, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    runs = [Run(row, injector.banks.train, injector.banks.val, 0) for row in EXPERIMENT.configurations]
    recorded = {column: numbers for run in runs for column, numbers in probes(run).items()}
    provenance = {**injector.reference.provenance, "probes": recorded}
    known = replace(injector, reference=replace(injector.reference, provenance=provenance))
    clean = known.test(Fault("none", "nothing goes wrong", nullcontext, FAULTS[name].probes, touches=("none",)))
    assert not clean.detected
    monkeypatch.delattr(Training, "finish")
    result = known.test(FAULTS[name])
    assert result.detected
    assert result.detected_unpaired
    assert what in {drift.column for drift in result.probes if drift.failed}
    assert what.partition(" ")[0] in detection_table([result])


def test_a_run_that_is_refused_is_noticed_by_its_sentence(injector: FaultInjector) -> None:
    result = injector.test(FAULTS["epochs-from-zero"])
    assert "epoch is 0; valid is an integer from 1" in result.error
    assert result.detected
    assert result.detected_unpaired


@pytest.mark.parametrize("name", ["validation-cut", "validation-16-rows-fewer"])
def test_a_validation_of_fewer_images_is_counted(injector: FaultInjector, name: str) -> None:
    result = injector.test(FAULTS[name])
    assert "validation saw another number of them" in result.error
    assert result.detected_unpaired
    assert all("train_loss" not in comparison.drifted for comparison in result.paired)


def test_a_seed_that_is_not_used_is_told_by_new_seeds_too(injector: FaultInjector) -> None:
    result = injector.test(FAULTS["one-seed"])
    assert "seeds 0 and 1 have the same results, digit by digit" in result.error
    assert result.detected_unpaired


def test_what_is_trained_is_kept_and_an_interrupted_measurement_goes_on(
    injector: FaultInjector, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [FAULTS[name] for name in ("gamma-0.7", "adamw")]
    finish, trained = Training.finish, [""]

    def counted(training: Training) -> None:
        if len(trained) == stop:
            raise KeyboardInterrupt
        finish(training)
        trained.append(training.configuration.id)

    monkeypatch.setattr(Training, "finish", counted)
    stop, told = 2, list[Progress]()
    with pytest.raises(KeyboardInterrupt):
        [*injector.test_all(faults, told.append)]
    stop = 0
    results = [*injector.test_all(faults, told.append)]
    assert [result.fault.id for result in results] == ["gamma-0.7", "adamw"]
    assert len(told) == len(trained), "one was told of and interrupted"
    before = len(trained)
    assert [result.outcome for result in injector.test_all(faults)] == [result.outcome for result in results]
    assert len(trained) == before, "all is kept"


def test_of_more_seeds_the_new_ones_alone_are_trained(injector: FaultInjector, monkeypatch: pytest.MonkeyPatch) -> None:
    few, finish = injector.train("Model1", seeds=(20, 22)), Training.finish
    trained: list[tuple[int, ...]] = []

    def watched(training: Training) -> None:
        trained.append(tuple(run.seed for run in training.runs))
        finish(training)

    monkeypatch.setattr(Training, "finish", watched)
    more = injector.train("Model1", seeds=(20, 21, 22))
    assert trained == [(21,)]
    assert history.seeds(more) == [20, 21, 22]
    assert more[more["seed"] != 21].reset_index(drop=True).equals(few)
    assert injector.train("Model1", seeds=(20, 21, 22)).equals(more)


def test_a_fault_with_nothing_to_act_on_is_left_out_with_its_reason(injector: FaultInjector) -> None:
    nothing = Fault("no-such-students", "it is about others", nullcontext, ("convolutions",))
    assert "has no student that it is about" in injector.test(nothing).cannot
    result = injector.test(replace(FAULTS["statistics-wrong"], inject=nullcontext))
    assert "makes no image or feature of this workload" in result.cannot
    assert not result.detected
    told = page([result], [], injector, environment(CPU), "kvbench detect")
    assert "Left out, as they have nothing to act on here:" in told
    assert "- statistics-wrong: " in told


@pytest.mark.parametrize("name", [name for name, row in FAULTS.items() if row.equivalent and "seconds" not in name])
def test_what_can_not_be_seen_changes_no_number(injector: FaultInjector, name: str) -> None:
    assert SMALL.train_count is not None
    assert SMALL.train_count % EXPERIMENT.recipes[0].batch_size == 0
    result = injector.test(FAULTS[name])
    assert not result.changed
    assert not result.detected


def test_a_seed_compared_with_itself_shows_what_new_seeds_hide(injector: FaultInjector) -> None:
    result = injector.test(replace(FAULTS["lr-x1.05"], probes=("Model3",)))
    assert result.detected
    paired, unpaired = result.largest_deviation(result.paired), result.largest_deviation(result.unpaired)
    assert paired is not None
    assert unpaired is not None
    assert paired[1].excess > 2 * unpaired[1].excess


def test_a_fault_that_patches_random_numbers_does_not_hide_behind_another_stream(injector: FaultInjector) -> None:
    assert injector.rng_fingerprint == rng_fingerprint() == injector.reference.rng_fingerprint
    result = injector.test(FAULTS["shuffling-off"])
    assert "each with its own recorded run" in result.paired[0].describe()
    assert result.detected


def test_the_page_has_every_fault_with_its_outcome_and_fits_a_screen(injector: FaultInjector) -> None:
    results = [injector.test(FAULTS[name]) for name in ("lr-x2", "epochs-from-zero", "zeroed-gradients")]
    missed = FaultResult(FAULTS["eps-1e-6"], changed=True, paired=results[0].paired[:0])
    assert summary(results).startswith("2 of 2 faults that change a result are detected by the default run (100%;")
    assert " Missed: eps-1e-6." in summary([*results, missed])
    told = page(results, [], injector, environment(CPU), "kvbench detect")
    assert told.count("| lr-x2 ") == 2
    assert "the run stops" in detection_table(results[:2])
    assert "- epochs-from-zero: the run of Model1" in told
    assert "| zeroed-gradients | no " in equivalent_table(results[2:])
    assert "zeroed-gradients" not in told[: told.index("## Equivalent faults")]
    assert "reference of 8 seeds" in told
    assert max(map(len, told.splitlines())) <= 120


def test_what_is_missed_is_bold_and_a_changed_control_is_named(injector: FaultInjector) -> None:
    clean = injector.test(Fault("none", "nothing goes wrong", nullcontext, ("Model1",)))
    assert "| no result changed" in detection_table([clean])
    assert "**" not in detection_table([clean])
    assert "x** " in detection_table([replace(clean, changed=True)])
    tried = replace(clean, fault=FAULTS["relu-for-gelu"])
    assert controls([tried]).endswith("tried for 1 faults, bitwise the same in all of them.")
    assert controls([replace(tried, controls_unchanged=False)]).endswith("changed by relu-for-gelu.")
