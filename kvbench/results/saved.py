"""Saved runs: the JSON that pytest-benchmark writes, with the histories that kvbench left in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name, read_json

KEY = "kvbench"  # in a benchmark's extra_info, and at the top level of the file
NOT_TIMED = "not_timed"  # there, the records of trainings of which nothing was timed: they failed, or were reused
OWN = (  # of one benchmark
    "configuration",
    "history",
    "replicate_history",
    "parameters",
    "trainable",
    "flops_per_sample",
    "compared",
    "drifted",
    "reused_epochs",
    "diverged",
    "state_notes",
)


class Outcome(str, Enum):
    """How a session ended, or what was compared in it: a configuration or a finding."""

    PASSED = "passed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"  # it was not compared, or not everything was
    NOT_CONFIRMED = "not confirmed"  # of a finding: more seeds are needed to tell
    RECORDED = "recorded"  # of a session: it wrote the reference, as it was asked to
    UNKNOWN = "unknown"  # it did not come to write it

    __str__ = str.__str__


@dataclass(frozen=True)
class Saved:
    """A run as it was saved.

    Args:
        workload: its name.
        histories: the history frame.
        outcome: how the session ended.
        reasons: why it failed or is incomplete, one sentence each.
        costs: FLOPs per sample of each configuration; those whose cost is unknown are left out.
        drifted: the metrics of each configuration that left the reference, where it was compared with one.
        info: ``date``, ``processor``, ``commit`` and the facts that all benchmarks share.
    """

    workload: str
    histories: pd.DataFrame
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    drifted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def study(self) -> str:
        """The name of its study; empty if it is not known."""
        return str(self.info.get("study", ""))


def read(path: Path) -> Saved:
    """Read a pytest-benchmark JSON file of a kvbench run.

    A configuration that was trained again with the same results, by a repeated test, counts once.

    Raises:
        UserError: there is no such file, it is not JSON, no kvbench histories are in it, or they are not possible or
            contradict each other.

    Example:
        >>> read_saved(Path(".benchmarks/Linux-CPython-3.11-64bit/0001_first.json")).outcome  # doctest: +SKIP
        <Outcome.PASSED: 'passed'>
    """
    top = _mapping(read_json(path), str(path))
    benchmarks = top.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise UserError(f"{path} is not a file that pytest-benchmark saves: it has no list of benchmarks.")
    ending = _mapping(top.get(KEY, {}), f"{path}: {KEY}")
    not_timed = ending.get(NOT_TIMED, [])
    if not isinstance(not_timed, list):
        raise UserError(f"{path}: {NOT_TIMED} is {not_timed!r}; valid is a list of records.")
    benchmarks = [*benchmarks, *({"extra_info": {KEY: record}} for record in not_timed)]
    records = [record for benchmark in benchmarks if (record := _record(benchmark, path)) is not None]
    if not records:
        raise UserError(f"{path} holds no kvbench histories; save a run with: pytest benchmarks/ --benchmark-save=NAME")
    workloads = list(dict.fromkeys(str(side["workload"]) for side in (*records, ending) if "workload" in side))
    if len(workloads) != 1:
        raise UserError(f"{path} holds runs of {', '.join(workloads) or 'no named workload'}; valid is one workload.")
    check_name(workloads[0], f"{path}: workload")
    outcome, reasons = ending.get("outcome", Outcome.UNKNOWN.value), ending.get("reasons", [])
    if outcome not in [known.value for known in Outcome]:
        raise UserError(f"{path}: outcome is {outcome!r}; valid: {', '.join(Outcome)}.")
    if not isinstance(reasons, list):
        raise UserError(f"{path}: reasons is {reasons!r}; valid is a list of sentences.")
    rows = [row for record in records for row in record["history"]]
    return Saved(
        workloads[0],
        history.check(history.frame(rows, str(path)), str(path), finite=False),
        Outcome(outcome),
        tuple(map(str, reasons)),
        _costs(records, path),
        _info(top, records, path),
        {record["configuration"]: tuple(map(str, record["drifted"])) for record in records
         if record.get("compared") and isinstance(record.get("drifted"), list)},
    )  # fmt: skip


def _record(benchmark: object, path: Path) -> Mapping[str, Any] | None:
    """What kvbench left in one benchmark; None if it is another project's."""
    extra = _mapping(_mapping(benchmark, f"{path}: a benchmark").get("extra_info") or {}, f"{path}: extra_info")
    if KEY not in extra:
        return None
    record = _mapping(extra[KEY], f"{path}: extra_info's {KEY}")
    for name, kind, words in (("workload", str, "a name"), ("configuration", str, "a name"), ("history", list, "rows")):
        if not isinstance(record.get(name), kind):
            raise UserError(f"{path}: {name} is {record.get(name)!r} in a benchmark; valid is {words}.")
    name = record["configuration"]
    for row in record["history"]:
        if _mapping(row, f"{path}: a row of {name}").get("configuration") != name:
            raise UserError(f"{path}: the history of {name} has a row of {row.get('configuration')!r}.")
    return record


def _costs(records: Iterable[Mapping[str, Any]], path: Path) -> dict[str, float]:
    """FLOPs per sample of each configuration whose record has them; null is unknown."""
    costs: dict[str, float] = {}
    for record in records:
        name, value = record["configuration"], record.get("flops_per_sample")
        if value is not None and (type(value) is not int or not 0 <= value < 2**63):
            valid = "a number from 0, or null if it is unknown"
            raise UserError(f"{path}: flops_per_sample of {name} is {value!r}; valid is {valid}.")
        costs |= {} if value is None else {name: value}
    return costs


def _info(top: Mapping[str, Any], records: list[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Facts about the run: pytest-benchmark's, and those of the benchmarks that are the same in all."""
    machine = _mapping(top.get("machine_info") or {}, f"{path}: machine_info")
    cpu = _mapping(machine.get("cpu") or {}, f"{path}: cpu")
    commit = _mapping(top.get("commit_info") or {}, f"{path}: commit_info")
    facts = {"date": top.get("datetime"), "processor": cpu.get("brand_raw"), "commit": commit.get("id")}
    facts |= {"uncommitted changes": "yes" if commit.get("dirty") else None, "resumed": reused(records)}
    first, *others = records
    facts |= {name: value for name, value in first.items() if all(record.get(name) == value for record in others)}
    return {name: value for name, value in facts.items() if value not in (None, "", {}, []) and name not in OWN}


def reused(records: Iterable[Mapping[str, Any]]) -> str:
    """Say what trainings took over from an interrupted run, given their records; empty if nothing.

    Records whose numbers of epochs are missing or impossible are passed over.
    """
    finished, partly = [], []
    for record in records:
        name, taken, recipe = record["configuration"], record.get("reused_epochs"), record.get("recipe")
        epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
        if not isinstance(taken, list) or not any(taken) or not all(map(_possible, (epochs, *taken))):
            continue
        if min(taken) >= epochs:
            finished.append(name)
        elif whole := sum(done >= epochs for done in taken) * (min(taken) == 0):
            partly.append(f"{name} ({whole} of {len(taken)} seeds)")
        else:
            partly.append(f"{name} from epoch {min(taken) + 1} on")
    return "; ".join(([f"{', '.join(finished)} (finished)"] if finished else []) + partly)


def _possible(epochs: object) -> bool:
    return type(epochs) is int and 0 <= epochs <= history.MOST_EPOCHS


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object.")
    return value
