"""References: ``expected/<workload>/`` with histories.csv, verdicts.csv, provenance.json, mostly replicates.csv."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench.findings.design import Design
from kvbench.findings.judge import Judgement, judge
from kvbench.reference import verdicts
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name, read_json

HISTORIES, VERDICTS, PROVENANCE, REPLICATES = "histories.csv", "verdicts.csv", "provenance.json", "replicates.csv"
COSTS = "flops_per_sample"  # in provenance.json
UPDATE = "--kvbench-update-expected"
SHIPPED = Path(__file__).parents[1] / "expected"  # the references that come with kvbench
SEEDS = 8  # fewer make the intervals of comparisons too wide to see much


@dataclass(frozen=True)
class Reference:
    """What a workload's runs are compared with.

    Args:
        workload: its name.
        design: of the study whose reference it is.
        folder: where it lies.
        histories: the history frame.
        recorded: verdicts, with `kvbench.reference.verdicts.COLUMNS`.
        provenance: where the numbers come from. kvbench reads ``seeds`` (a list, or one for each configuration) and,
            where they exist, ``epochs``, ``epochs_reported`` (of a published table), ``fingerprints``,
            ``flops_per_sample``, ``projections`` (of features: `kvbench.reference.features`), ``probes`` (of students:
            `kvbench.reference.probes`) and ``random_numbers``.
        replicates: histories of some of its seeds on banks rounded otherwise; empty if there are none.
        command: the one that runs the workload as it was run, for messages.
        repeated: the histories that the replicates repeat; None: its own.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> reference = load_reference(Path("expected"), "fractals", STUDY.design)
        >>> len(reference.histories), reference.provenance["teacher_val_accuracy"]
        (2800, 0.96435546875)
    """

    workload: str
    design: Design
    folder: Path
    histories: pd.DataFrame
    recorded: pd.DataFrame
    provenance: Mapping[str, Any]
    replicates: pd.DataFrame
    command: str
    repeated: pd.DataFrame | None = None

    @property
    def update_command(self) -> str:
        """The command that would make a fresh run the reference, with no fewer seeds than there are."""
        return f"{self.command} --kvbench-seeds {max(SEEDS, len(history.seeds(self.histories)))} {UPDATE}"

    @property
    def fingerprints(self) -> Mapping[str, Any]:
        """What the recorded run was made from; empty if not known."""
        return dict(self.provenance.get("fingerprints") or {})

    @property
    def rng_fingerprint(self) -> str:
        """Names the random numbers that a seed gave where it was made; empty if not known."""
        return str(self.provenance.get("random_numbers", ""))

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The judgements of its histories."""
        return judge(self.histories, self.design, self.costs)

    def judgements_of(self, seeds: Collection[int]) -> list[Judgement]:
        """The judgements of those of its histories that have one of ``seeds``."""
        if set(seeds) >= set(history.seeds(self.histories)):
            return self.judgements
        return judge(self.histories[self.histories["seed"].isin(list(seeds))], self.design, self.costs)

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs per sample of each configuration; those whose cost is unknown are left out."""
        known = dict(self.provenance.get(COSTS) or {}).items()
        return {str(name): float(cost) for name, cost in known if cost is not None}

    @property
    def epochs_reported(self) -> list[int]:
        """The epochs of a table that leaves some out; empty if every epoch is there."""
        return [int(epoch) for epoch in self.provenance.get("epochs_reported") or []]

    def absent(self, configurations: Sequence[str]) -> list[str]:
        """How a full run's configurations differ from the recorded ones, both ways; one sentence each."""
        mine = history.configurations(self.histories)
        gone = [f"{name} is in the reference but was not run" for name in mine if name not in configurations]
        return gone + [f"{name} was run but is not in the reference" for name in configurations if name not in mine]


def _homes(folder: Path, design: Design) -> list[Path]:
    return [folder, SHIPPED / design.shipped] if design.shipped else [folder]


def available(folder: Path, design: Design) -> list[str]:
    """The workloads of which a study has a reference in a folder or comes with one, sorted; a folder may be missing."""
    return sorted({path.parent.name for home in _homes(folder, design) for path in home.glob(f"*/{HISTORIES}")})


def find(folder: Path, workload: str, design: Design) -> Path | None:
    """The folder of a workload's reference: ``<folder>/<workload>``, else the one that comes with it, or None."""
    check_name(workload, "The name of a reference")
    homes = [home / workload for home in _homes(folder, design)]
    return next((home for home in homes if (home / HISTORIES).is_file()), None)


def load(folder: Path, workload: str, design: Design, run: str = "", *, strict: bool = True) -> Reference:
    """Read a workload's reference from where `find` finds it.

    Args:
        folder: the folder of all references of the study.
        workload: its name.
        design: the study's.
        run: the command that runs the workload, where it is not the plain one.
        strict: False accepts verdicts of findings that are no longer there, and a reference without any.

    Raises:
        UserError: there is no reference (names the folder and the command that makes one), or a file of it is damaged:
            unreadable, impossible values, missing rows, an unknown finding.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> str(load_reference(Path("expected"), "fractals", STUDY.design).judgements[0].verdict)
        'holds'
    """
    home = find(folder, workload, design)
    row, _, chosen = workload.partition("+")
    run = run or f"pytest benchmarks/ --kvbench-workload {row}" + (
        f" --kvbench-set {chosen.replace('+', ' ')}" if "=" in chosen else ""
    )
    if home is None:
        known = ", ".join(available(folder, design))
        raise UserError(
            f"There is no reference for {workload} in {folder}{f' (there: {known})' if known else ' yet'}. "
            f"To record one: {run} --kvbench-seeds {SEEDS} {UPDATE}"
        )
    histories = history.read(home / HISTORIES)
    provenance = _provenance(home / PROVENANCE)
    names, recorded = history.configurations(histories), provenance["seeds"]
    seeds = recorded if isinstance(recorded, dict) else dict.fromkeys(names, recorded)
    epochs = provenance.get("epochs_reported") or provenance.get("epochs") or history.epochs(histories)
    problems = [f"{name} is missing" for name in seeds if name not in names]
    for name in names:
        if name in seeds:
            problems += history.incomplete(history.of(histories, name), [name], seeds[name], epochs)
        else:
            problems.append(f"{name} is there but not expected")
    if problems:
        raise UserError(f"{home / HISTORIES} does not fit {home / PROVENANCE}: {'; '.join(problems)}.")
    replicates = history.read(home / REPLICATES) if (home / REPLICATES).exists() else history.frame([])
    if problems := invalid_replicates(replicates, histories):
        raise UserError(f"{home / REPLICATES} does not fit {home / HISTORIES}: {'; '.join(problems)}.")
    path = home / VERDICTS
    recorded_verdicts = verdicts.frame([])
    if strict or path.exists():
        recorded_verdicts = verdicts.read(path, design if strict else None)
    return Reference(workload, design, home, histories, recorded_verdicts, provenance, replicates, run)


def invalid_replicates(replicates: pd.DataFrame, histories: pd.DataFrame) -> list[str]:
    """Say how replicates differ from runs of a frame's own configurations, seeds and epochs; empty if they do not."""
    problems = []
    for name in history.configurations(replicates):
        mine, theirs = history.of(replicates, name), history.of(histories, name)
        if theirs.empty:
            problems.append(f"{name} is there but not in the histories")
            continue
        strange = sorted(set(history.seeds(mine)) - set(history.seeds(theirs)))
        problems += [f"{name} has a replicate of seed {seed}, which it lacks" for seed in strange]
        problems += history.incomplete(mine, [name], history.seeds(mine), history.epochs(theirs))
    return problems


def _provenance(path: Path) -> dict[str, Any]:
    """Read provenance.json; raises `UserError` if it is not an object with the types that kvbench reads."""
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{path} holds no JSON object.")
    seeds = facts.get("seeds")
    lists = list(seeds.values()) if isinstance(seeds, dict) else [seeds]
    costs = facts.get(COSTS, {})
    for name, valid, fits in (
        ("seeds", "a list of integers, or one for each configuration", all(_integers(v) and v for v in lists)),
        ("epochs", "a list of integers", _integers(facts.get("epochs", []))),
        ("epochs_reported", "a list of integers", _integers(facts.get("epochs_reported", []))),
        ("fingerprints", "an object", isinstance(facts.get("fingerprints", {}), dict)),
        (COSTS, "an object", isinstance(costs, dict)),
        ("projections", "an object of lists of numbers", _lists_of_numbers(facts.get("projections", {}))),
        ("probes", "an object of lists of numbers", _lists_of_numbers(facts.get("probes", {}))),
        ("partial_updates", "a list", isinstance(facts.get("partial_updates", []), list)),
    ):
        if not fits:
            raise UserError(f"{path}: {name} is {facts.get(name)!r}; valid is {valid}.")
    if not all(c is None or (isinstance(c, (int, float)) and 0 <= c < 2**63) for c in costs.values()):
        raise UserError(f"{path}: {COSTS} holds something that is not a number from 0, or null where it is unknown.")
    return facts


def _lists_of_numbers(columns: object) -> bool:
    lists = list(columns.values()) if isinstance(columns, dict) else [None]
    numbers: list[list[Any]] = [some if isinstance(some, list) else [None] for some in lists]
    return all(type(one) in {int, float} and abs(one) < 2**63 for some in numbers for one in some)


def _integers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
