"""References: ``expected/<workload>/`` with histories.csv, verdicts.csv, provenance.json, mostly replicates.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench.findings.registry import Judgement, judge
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
        folder: where it lies.
        histories: the history frame.
        recorded: verdicts, with `kvbench.reference.verdicts.COLUMNS`.
        provenance: where the numbers come from. kvbench reads ``seeds`` (a list, or one for each configuration) and,
            where they exist, ``epochs``, ``epochs_reported`` (of a published table), ``fingerprints`` and
            ``flops_per_sample`` and ``random_numbers``.
        replicates: histories of some of its seeds on banks rounded otherwise; empty if there are none.
        command: the one that runs the workload as it was run, for messages.
    """

    workload: str
    folder: Path
    histories: pd.DataFrame
    recorded: pd.DataFrame
    provenance: Mapping[str, Any]
    replicates: pd.DataFrame
    command: str
    _judged: dict[frozenset[int], list[Judgement]] = field(init=False, default_factory=dict, repr=False, compare=False)

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
        return judge(self.histories, self.costs)

    def judgements_of(self, seeds: frozenset[int]) -> list[Judgement]:
        """The judgements of those of its histories that have one of ``seeds``; made once for each set."""
        if seeds not in self._judged:
            self._judged[seeds] = judge(self.histories[self.histories["seed"].isin(seeds)], self.costs)
        return self._judged[seeds]

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs per sample of each configuration; empty if not known."""
        return {str(name): float(cost) for name, cost in dict(self.provenance.get(COSTS) or {}).items()}

    @property
    def epochs_reported(self) -> list[int]:
        """The epochs of a table that leaves some out; empty if every epoch is there."""
        return [int(epoch) for epoch in self.provenance.get("epochs_reported") or []]

    def absent(self, configurations: Sequence[str]) -> list[str]:
        """How a full run's configurations differ from the recorded ones, both ways; one sentence each."""
        mine = history.configurations(self.histories)
        gone = [f"{name} is in the reference but was not run" for name in mine if name not in configurations]
        return gone + [f"{name} was run but is not in the reference" for name in configurations if name not in mine]


def verdict_changes(
    reference: Reference, judgements: Sequence[Judgement], configurations: Sequence[str] = ()
) -> list[verdicts.Change]:
    """How fresh judgements differ from the recorded verdicts: see `kvbench.reference.verdicts.changes`."""
    seeds = frozenset(seed for judgement in judgements for clause in judgement.clauses for seed in clause.margins)
    whole = seeds <= set(history.seeds(reference.histories))
    return verdicts.changes(
        reference.recorded,
        judgements,
        reference.command,
        reference.update_command,
        configurations,
        reference.judgements,
        reference.judgements_of(seeds) if whole else (),
    )


def command(workload: str) -> str:
    """The command that runs a workload."""
    return f"pytest benchmarks/ --kvbench-workload {workload}"


def available(folder: Path) -> list[str]:
    """The workloads that have a reference in a folder or come with one, sorted; the folder may be missing."""
    return sorted({path.parent.name for place in (folder, SHIPPED) for path in place.glob(f"*/{HISTORIES}")})


def find(folder: Path, workload: str) -> Path | None:
    """The folder of a workload's reference: ``<folder>/<workload>``, else the one that ships with kvbench, or None."""
    check_name(workload, "The name of a reference")
    homes = (folder / workload, SHIPPED / workload)
    return next((home for home in homes if (home / HISTORIES).is_file()), None)


def load(folder: Path, workload: str, run: str = "") -> Reference:
    """Read a workload's reference from where `find` finds it.

    ``run`` is the command that runs the workload, where it is not the plain one.

    Raises:
        UserError: there is no reference (names the folder and the command that makes one), or a file of it is damaged:
            unreadable, impossible values, missing rows, an unknown finding.
    """
    home = find(folder, workload)
    if home is None:
        known = ", ".join(available(folder)) or "none"
        raise UserError(
            f"There is no reference for {workload} in {folder} (there: {known}). "
            f"To record one: {run or command(workload)} --kvbench-seeds {SEEDS} {UPDATE}"
        )
    histories = history.read(home / HISTORIES)
    provenance = _provenance(home / PROVENANCE)
    names = history.configurations(histories)
    recorded = provenance["seeds"]
    seeds = recorded if isinstance(recorded, dict) else dict.fromkeys(names, recorded)
    epochs = provenance.get("epochs_reported") or provenance.get("epochs") or history.epochs(histories)
    words = [f"{name} is missing" for name in seeds if name not in names]
    for name in names:
        if name in seeds:
            rows = histories[histories["configuration"] == name]
            words += history.incomplete(rows, [name], seeds[name], epochs)
        else:
            words.append(f"{name} is there but not expected")
    if words:
        raise UserError(f"{home / HISTORIES} does not fit {home / PROVENANCE}: {'; '.join(words)}.")
    replicates = history.read(home / REPLICATES) if (home / REPLICATES).exists() else history.frame([])
    if words := unusable_replicates(replicates, histories):
        raise UserError(f"{home / REPLICATES} does not fit {home / HISTORIES}: {'; '.join(words)}.")
    recorded_verdicts = verdicts.read(home / VERDICTS)
    return Reference(workload, home, histories, recorded_verdicts, provenance, replicates, run or command(workload))


def unusable_replicates(replicates: pd.DataFrame, histories: pd.DataFrame) -> list[str]:
    """Say how replicates differ from runs of a frame's own configurations, seeds and epochs; empty if they do not."""
    words = []
    for name in history.configurations(replicates):
        mine, theirs = replicates[replicates["configuration"] == name], histories[histories["configuration"] == name]
        if theirs.empty:
            words.append(f"{name} is there but not in the histories")
            continue
        known = set(history.seeds(theirs))
        words += [
            f"{name} has a replicate of seed {seed}, which it lacks"
            for seed in history.seeds(mine)
            if seed not in known
        ]
        words += history.incomplete(mine, [name], history.seeds(mine), history.epochs(theirs))
    return words


def _provenance(path: Path) -> dict[str, Any]:
    """Read provenance.json; raises `UserError` if it is not an object with the types that kvbench reads."""
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{path} holds no JSON object.")
    seeds = facts.get("seeds")
    lists = list(seeds.values()) if isinstance(seeds, dict) else [seeds]
    if not all(_integers(values) and values for values in lists):
        raise UserError(f"{path}: seeds is {seeds!r}; valid is a list of integers, or one for each configuration.")
    for name in ("epochs", "epochs_reported"):
        if not _integers(facts.get(name, [])):
            raise UserError(f"{path}: {name} is {facts[name]!r}; valid is a list of integers.")
    for name in ("fingerprints", COSTS):
        if not isinstance(facts.get(name, {}), dict):
            raise UserError(f"{path}: {name} is {facts[name]!r}; valid is an object.")
    if not all(isinstance(cost, (int, float)) and 0 <= cost < 2**63 for cost in facts.get(COSTS, {}).values()):
        raise UserError(f"{path}: {COSTS} holds something that is not a number from 0.")
    if not isinstance(facts.get("partial_updates", []), list):
        raise UserError(f"{path}: partial_updates is {facts['partial_updates']!r}; valid is a list.")
    return facts


def _integers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
