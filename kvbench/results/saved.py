"""Saved runs: the JSON that pytest-benchmark writes, with the histories that kvbench left in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name, read_json

PASSED, FAILED, INCOMPLETE, UNKNOWN = "passed", "failed", "incomplete", "unknown"
KEY = "kvbench"  # in a benchmark's extra_info, and at the top level of the file
BROKEN_OFF = "broken_off"  # there, the records of trainings that ended in an error
OWN = (  # of one benchmark
    "configuration",
    "history",
    "replicate_history",
    "parameters",
    "trainable",
    "flops_per_sample",
    "compared",
    "moved",
    "reused_epochs",
    "diverged",
    "state_notes",
)


@dataclass(frozen=True)
class Saved:
    """A run as it was saved.

    Args:
        workload: its name.
        histories: the history frame.
        outcome: ``passed``, ``failed``, ``incomplete``, or ``unknown`` if the run did not come to write it.
        reasons: why it failed or is incomplete, one sentence each.
        costs: FLOPs per sample of each configuration that tells.
        parameters: of each configuration that tells, with those that are trained: ``(parameters, trainable)``.
        info: ``date``, ``processor``, ``commit`` and the facts that all benchmarks share.
    """

    workload: str
    histories: pd.DataFrame
    outcome: str
    reasons: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> Saved:
    """Read a pytest-benchmark JSON file of a kvbench run.

    Raises:
        UserError: there is no such file, it is not JSON, no kvbench histories are in it, or they are not possible.
    """
    top = _mapping(read_json(path), str(path))
    benchmarks = top.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise UserError(f"{path} is not a file that pytest-benchmark saves: it has no list of benchmarks.")
    entries = [entry for benchmark in benchmarks if (entry := _entry(benchmark, path)) is not None]
    ending = _mapping(top.get(KEY, {}), f"{path}: {KEY}")
    broken_off = ending.get(BROKEN_OFF, [])
    if not isinstance(broken_off, list):
        raise UserError(f"{path}: {BROKEN_OFF} is {broken_off!r}; valid is a list of records.")
    entries += [entry for record in broken_off if (entry := _entry({"extra_info": {KEY: record}}, path)) is not None]
    if not entries:
        raise UserError(f"{path} holds no kvbench histories; save a run with: pytest benchmarks/ --benchmark-save=NAME")
    workloads = list(dict.fromkeys(str(side["workload"]) for side in (*entries, ending) if "workload" in side))
    if len(workloads) != 1:
        raise UserError(f"{path} holds runs of {', '.join(workloads) or 'no named workload'}; valid is one workload.")
    check_name(workloads[0], f"{path}: workload")
    outcome, reasons = ending.get("outcome", UNKNOWN), ending.get("reasons", [])
    if outcome not in (PASSED, FAILED, INCOMPLETE, UNKNOWN):
        raise UserError(f"{path}: outcome is {outcome!r}; valid: {PASSED}, {FAILED}, {INCOMPLETE}.")
    if not isinstance(reasons, list):
        raise UserError(f"{path}: reasons is {reasons!r}; valid is a list of sentences.")
    return Saved(
        workloads[0],
        history.check(history.frame(_rows(entries, path), str(path)), str(path), finite=False),
        outcome,
        tuple(str(reason) for reason in reasons),
        {str(entry["configuration"]): _count(entry, "flops_per_sample", path) for entry in entries
         if "flops_per_sample" in entry},
        {str(entry["configuration"]): (_count(entry, "parameters", path), _count(entry, "trainable", path))
         for entry in entries if "parameters" in entry and "trainable" in entry},
        _info(top, entries, path),
    )  # fmt: skip


def _entry(benchmark: object, path: Path) -> Mapping[str, Any] | None:
    """What kvbench left in one benchmark; None if it is another project's."""
    extra = _mapping(_mapping(benchmark, f"{path}: a benchmark").get("extra_info") or {}, f"{path}: extra_info")
    if KEY not in extra:
        return None
    entry = _mapping(extra[KEY], f"{path}: extra_info's {KEY}")
    for name, kind, words in (("workload", str, "a name"), ("configuration", str, "a name"), ("history", list, "rows")):
        if not isinstance(entry.get(name), kind):
            raise UserError(f"{path}: {name} is {entry.get(name)!r} in a benchmark; valid is {words}.")
    return entry


def _rows(entries: list[Mapping[str, Any]], path: Path) -> list[Mapping[str, Any]]:
    rows = []
    for entry in entries:
        name = entry["configuration"]
        for row in entry["history"]:
            if _mapping(row, f"{path}: a row of {name}").get("configuration") != name:
                raise UserError(f"{path}: the history of {name} has a row of {row.get('configuration')!r}.")
            rows.append(row)
    return rows


def _count(entry: Mapping[str, Any], name: str, path: Path) -> int:
    value = entry[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise UserError(f"{path}: {name} of {entry['configuration']} is {value!r}; valid is a number from 0.")
    return value


def _info(top: Mapping[str, Any], entries: list[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Facts about the run: pytest-benchmark's, and those of the benchmarks that are the same in all."""
    machine = _mapping(top.get("machine_info") or {}, f"{path}: machine_info")
    cpu = _mapping(machine.get("cpu") or {}, f"{path}: cpu")
    commit = _mapping(top.get("commit_info") or {}, f"{path}: commit_info")
    facts = {"date": top.get("datetime"), "processor": cpu.get("brand_raw"), "commit": commit.get("id")}
    facts |= {"uncommitted changes": "yes" if commit.get("dirty") else None}
    facts["resumed"] = reused(entries)
    first, *others = entries
    facts |= {name: value for name, value in first.items() if all(entry.get(name) == value for entry in others)}
    return {name: value for name, value in facts.items() if value not in (None, "", {}, []) and name not in OWN}


def reused(records: Iterable[Mapping[str, Any]]) -> str:
    """Say what trainings took over from an interrupted run, given their records; empty if nothing.

    Numbers of epochs that are missing or impossible tell nothing.
    """
    whole, parts = [], []
    for record in records:
        name, taken, recipe = record["configuration"], record.get("reused_epochs"), record.get("recipe")
        epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
        if not isinstance(taken, list) or not any(taken) or not all(map(_possible, (epochs, *taken))):
            continue
        if min(taken) >= epochs:
            whole.append(name)
        else:
            parts.append(f"{name} from epoch {min(taken) + 1} on")
    told = [f"{', '.join(whole)} (finished)"] if whole else []
    return "; ".join(told + parts)


def _possible(epochs: object) -> bool:
    return type(epochs) is int and 0 <= epochs <= history.MOST_EPOCHS


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object.")
    return value
