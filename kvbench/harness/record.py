"""The record of a training: what a saved benchmark keeps, enough to make every table again without training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvbench.core.cost import Cost, cost
from kvbench.core.numerics import default_numerics
from kvbench.core.probe import probe
from kvbench.utils.environment import environment, rng_fingerprint
from kvbench.utils.errors import best_effort

if TYPE_CHECKING:
    import torch

    from kvbench.core.recipe import Configuration
    from kvbench.core.run import Run
    from kvbench.core.trainer import Training
    from kvbench.harness.setup import Banks
    from kvbench.studies.experiment import Experiment

Record = Mapping[str, Any]


def made_from(experiment: Experiment, banks: Banks | None) -> dict[str, Any]:
    """What must agree for runs to be comparable: the study's name, the banks' fingerprints and the recipes."""
    return {"study": experiment.study.name, **(banks.fingerprints if banks else {}), **experiment.facts}


@default_numerics()
def surroundings(banks: Banks | None, device: torch.device, code: str, *, stacked: bool = False) -> dict[str, Any]:
    """What decides the numbers of a training beside configuration and seed, JSON-serialisable."""
    here = environment(device)
    return {
        **(banks.fingerprints if banks else {}),
        "banks": [banks.train.digest, banks.val.digest] if banks else [],
        **{name: here[name] for name in ("versions", "hardware", "random_numbers", "numerics")},
        "code": code,
        "stacked": stacked,
    }


def cost_of(configuration: Configuration, banks: Banks) -> Cost:
    """What a student costs on these banks."""
    bank = banks.train.select(configuration.student.taps)
    return cost(configuration.student, bank.widths, bank.classes, bank)


def projections(run: Run, fingerprints: Mapping[str, Any]) -> dict[str, list[float]]:
    """What a student is given: `FeatureBank.projections` of both splits, as ``train layer4.1`` and ``val logits``.

    Args:
        run: the student's, of any seed.
        fingerprints: those of the banks, which name the taps.
    """
    taps = dict(enumerate(str(fingerprints.get("taps", "")).split()))
    read = [tap if tap >= 0 else len(taps) + tap for tap in run.configuration.student.taps]
    names = [*(taps.get(tap, f"tap {tap}") for tap in read), "logits"]
    return {
        f"{split} {name}": numbers
        for split, bank in (("train", run.train), ("val", run.val))
        for name, numbers in zip(names, bank.projections(), strict=True)
    }


def probes(run: Run) -> dict[str, list[float]]:
    """What a student computes and learns from fixed numbers: `kvbench.core.probe.probe`, as ``Model3 outputs``."""
    bank, name = run.banks[0], run.configuration.id
    found = probe(run.configuration, bank.widths, bank.classes, run.device)
    return {f"{name} {what}": numbers for what, numbers in found.items()}


@default_numerics()
def record(training: Training, experiment: Experiment, banks: Banks | None, seeds: Sequence[int]) -> dict[str, Any]:
    """Describe a training, finished or not, as plain data; facts that cannot be had are left out."""
    configuration = training.configuration
    described: dict[str, Any] = {}
    if banks is not None:
        with best_effort(f"count the cost of {configuration.id}"):
            counted = asdict(cost_of(configuration, banks))
            described |= {name: count for name, count in counted.items() if count is not None}
        with best_effort(f"project what {configuration.id} is given"):
            described["projections"] = projections(training.runs[0], banks.fingerprints)
        with best_effort(f"probe {configuration.id}"):
            described["probes"] = probes(training.runs[0])
    with best_effort("look up versions and hardware"):
        described |= environment(training.device)
    return {
        "study": experiment.study.name,
        "workload": experiment.name,
        "configuration": configuration.id,
        "recipe": experiment.facts_of(configuration.recipe),
        "seeds": list(seeds),
        **described,
        "random_numbers": rng_fingerprint(),
        **(_data_facts(banks) if banks else {}),
        "fingerprints": made_from(experiment, banks),
        "history": training.history,
        "replicate_history": training.replicate_history,
        "reused_epochs": training.reused,
        "diverged": any(run.diverged for run in training.everyone),
        "state_notes": training.notes,
    }


def _data_facts(banks: Banks) -> dict[str, Any]:
    return {
        "train_count": len(banks.train),
        "val_count": len(banks.val),
        "teacher_val_accuracy": banks.val.teacher_accuracy,
        "notes": "; ".join(banks.notes),
    }


def complete(record: Record) -> bool:
    """Whether a training was trained and evaluated to its end with every seed."""
    return len(record["history"]) == len(record["seeds"]) * int(record["recipe"]["epochs"])


def results(record: Record) -> list[dict[str, Any]]:
    """The rows of a record's history without their seconds: what training again must repeat bit by bit."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in record["history"]]


def digest(record: Record) -> str:
    """Names the results of a record's history: equal for bitwise equal rows."""
    return hashlib.sha256(repr(results(record)).encode()).hexdigest()[:16]


def difference(one: Record, other: Record) -> str:
    """The first number in which two complete records of a configuration differ, in words."""
    for mine, theirs in zip(results(one), results(other), strict=False):
        for name, value in mine.items():
            if repr(value) != repr(theirs.get(name)):
                return f"{name} of seed {mine['seed']} in epoch {mine['epoch']} is {value!r} and {theirs.get(name)!r}"
    return "one has more rows"
