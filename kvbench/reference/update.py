"""Making a run the reference, and judging recorded histories again: what is written, what stays, what changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kvbench.findings.design import Design
from kvbench.findings.judge import judge
from kvbench.reference import verdicts
from kvbench.reference.compare import differing
from kvbench.reference.features import compare_features, describe
from kvbench.reference.probes import configuration_of
from kvbench.reference.store import (
    COSTS,
    HISTORIES,
    PROVENANCE,
    REPLICATES,
    VERDICTS,
    Reference,
    find,
    invalid_replicates,
    load,
)
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name, write_text
from kvbench.utils.text import number


def update(
    folder: Path,
    workload: str,
    design: Design,
    fresh: pd.DataFrame,
    provenance: Mapping[str, Any],
    *,
    full: bool = False,
    replicates: pd.DataFrame | None = None,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
) -> str:
    """Make a run's histories the reference, and the verdicts on all histories that are then there.

    Args:
        folder: the folder of all references of the study; ``<folder>/<workload>/`` is written, each file whole or not
            at all.
        workload: its name.
        design: the study's.
        fresh: complete histories: every seed of a configuration with all epochs, losses and accuracies finite.
        provenance: facts for provenance.json; ``seeds`` is added.
        full: the run had every configuration, so recorded ones that it lacks are removed; else those stay.
        replicates: histories of some of its seeds on banks rounded otherwise; None: it has none.
        seeds: those that the run was to train; None: those that each configuration has.
        epochs: how many the run was to train; None: as many as it has.

    Returns:
        What changed, for a person to read.

    Raises:
        UserError: the histories are not complete, the old reference is damaged, or configurations that would stay were
            made from something else (``fingerprints``) or with other epochs. Nothing is written then.
    """
    home = folder / check_name(workload, "The name of a reference")
    new = history.check(fresh, "the run", fresh=True)
    steps = list(range(1, (epochs or history.epochs(new)[-1]) + 1))
    if problems := _incomplete(new, seeds, steps):
        raise UserError(f"The run is not complete, so it can't become the reference: {'; '.join(problems)}.")
    paired = history.frame([])
    if replicates is not None and len(replicates):
        paired = history.check(replicates, "the replicates", fresh=True)
    if problems := invalid_replicates(paired, new):
        raise UserError(f"The replicates do not fit the run, so it can't become the reference: {'; '.join(problems)}.")
    old = load(folder, workload, design) if find(folder, workload, design) else None
    names = history.configurations(new)
    kept = old.histories[~old.histories["configuration"].isin(names)] if old is not None and not full else new.iloc[:0]
    facts, costs = dict(provenance), dict(provenance.get(COSTS) or {})
    if old is not None and len(kept):
        if clash := _clash(old, kept, provenance, steps):
            raise UserError(f"Only some configurations can't be updated, as {'; '.join(clash)}. Update all of them: "
                            "run it without -k.")  # fmt: skip
        costs = {**dict(old.provenance.get(COSTS) or {}), **costs}
        # of the columns that both have, those recorded first, so that updates cannot add up to another bank
        columns = {**(facts.get("projections") or {}), **(old.provenance.get("projections") or {})}
        # what is kept was made as the old facts say; the rest is described after them
        parts = [*old.provenance.get("partial_updates", []), {"configurations": names, **facts}]
        known = dict(old.provenance.get("probes") or {})
        others = {column: numbers for column, numbers in known.items() if configuration_of(column) not in names}
        probes = {**others, **(facts.get("probes") or {})}
        facts = {**old.provenance, "partial_updates": parts}
        facts |= {name: some for name, some in (("projections", columns), ("probes", probes)) if some}
        stay = old.replicates[old.replicates["configuration"].isin(kept["configuration"])]
        paired = _merge(history.configurations(old.replicates), stay, paired)
    merged = _merge(history.configurations(old.histories) if old is not None else [], kept, new)
    seeds_of = {name: history.seeds(history.of(merged, name)) for name in history.configurations(merged)}
    same = all(each == seeds_of[names[0]] for each in seeds_of.values())
    facts |= {"workload": workload, "seeds": seeds_of[names[0]] if same else seeds_of, "epochs": steps}
    facts |= {COSTS: costs} if costs else {}
    judged = verdicts.frame(judge(merged, design, costs))
    lines = _differences(merged.iloc[:0] if old is None else old.histories, merged)
    lines += _changed_verdicts(old.recorded, judged) if old is not None else []
    history.write(merged, home / HISTORIES)
    if len(paired):
        history.write(paired, home / REPLICATES)
    else:
        (home / REPLICATES).unlink(missing_ok=True)
    verdicts.write(judged, home / VERDICTS)
    write_text(home / PROVENANCE, json.dumps({"workload": workload, **facts}, indent=2) + "\n")
    return "\n".join([f"Reference written to {home}:", *(f"  {line}" for line in lines), f"  {_count(judged)}"])


def recorded(folder: Path) -> list[str]:
    """The workloads that have a reference in a folder itself, sorted; raises `UserError` where there is none."""
    names = sorted(path.parent.name for path in folder.glob(f"*/{HISTORIES}"))
    if not names:
        raise UserError(f"There is no reference in {folder}; name the folder of the references with --folder.")
    return names


def rejudge(folder: Path, workload: str, design: Design) -> str:
    """Judge a reference's recorded histories again, and write verdicts.csv: after a finding was added or changed.

    Returns:
        Which verdicts changed, for a person to read.

    Raises:
        UserError: `load`'s, except that verdicts may be recorded of findings that are no longer there, or not at all.

    Example:
        >>> print(rejudge(Path("expected"), "imagenet", design))  # doctest: +SKIP
        Verdicts written to expected/imagenet/verdicts.csv:
          clauses now: 76 holds, 4 fails
    """
    home = folder / check_name(workload, "The name of a reference")
    if not (home / HISTORIES).is_file():
        raise UserError(f"There is no {home / HISTORIES}: nothing to judge again.")
    old = load(folder, workload, design, strict=False)
    judged = verdicts.frame(old.judgements)
    verdicts.write(judged, old.folder / VERDICTS)
    lines = [*_changed_verdicts(old.recorded, judged), _count(judged)]
    return "\n".join([f"Verdicts written to {old.folder / VERDICTS}:", *(f"  {line}" for line in lines)])


def _incomplete(new: pd.DataFrame, seeds: Sequence[int] | None, epochs: Sequence[int]) -> list[str]:
    """Why a run can't become a reference, in words."""
    problems = []
    for name in history.configurations(new):
        rows = history.of(new, name)
        problems += history.incomplete(rows, [name], history.seeds(rows) if seeds is None else seeds, epochs)
        for metric in history.METRICS:
            count = int(np.isnan(rows[metric].to_numpy()).sum())
            if 0 < count < len(rows):
                problems.append(f"{name} has no {metric} in {count} of {len(rows)} rows")
    return problems


def _clash(old: Reference, kept: pd.DataFrame, provenance: Mapping[str, Any], epochs: Sequence[int]) -> list[str]:
    """Why fresh configurations can't stand beside those that are kept."""
    clash = differing(old.fingerprints, dict(provenance.get("fingerprints") or {}))
    drifts = compare_features(old, provenance.get("projections") or {}, old.fingerprints)
    if drifted := describe(drifts):
        clash.append(drifted[0].lower() + drifted[1:].rstrip("."))
    if old.rng_fingerprint and provenance.get("random_numbers") not in (None, old.rng_fingerprint):
        clash.append("a seed gives other random numbers here")
    if history.epochs(kept) != epochs:
        clash.append(f"the run has {len(epochs)} epochs, the reference {len(history.epochs(kept))}")
    return clash


def _merge(order: Sequence[str], kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Fresh rows in the place of recorded ones, new configurations at the end; as the file will hold them."""
    names = dict.fromkeys([*order, *history.configurations(new)])
    pieces = [rows for name in names for side in (new, kept) if len(rows := history.of(side, name))]
    if not pieces:
        return history.frame([])
    return history.rounded(history.check(pd.concat(pieces, ignore_index=True), "the new reference"))


def _differences(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """How histories change, one line each configuration that does."""
    lines, same = [], 0
    for name in dict.fromkeys([*history.configurations(before), *history.configurations(after)]):
        was, now = history.of(before, name), history.of(after, name)
        if was.empty:
            lines.append(f"new      {name}: {_last(now)}")
        elif now.empty:
            lines.append(f"removed  {name}: {_last(was)}")
        elif _digits(was) != _digits(now):
            lines.append(f"changed  {name}: {_last(now, was)}")
        else:
            same += 1
    return [*lines, *([f"{same} configurations unchanged"] if same else [])]


def _changed_verdicts(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """How recorded verdicts change, one line each clause that does."""
    earlier, later = (
        {(f"{finding} ({recipe}), {clause}"): str(verdict) for finding, recipe, clause, verdict, *_ in
         side.itertuples(index=False, name=None)} for side in (before, after)
    )  # fmt: skip
    return [
        f"verdict  {key}: {earlier.get(key, 'not recorded')} -> {later.get(key, 'no longer judged')}"
        for key in dict.fromkeys([*earlier, *later])
        if earlier.get(key) != later.get(key)
    ]


def _count(judged: pd.DataFrame) -> str:
    counts = judged["verdict"].value_counts().to_dict()
    return f"clauses now: {', '.join(f'{count} {verdict}' for verdict, count in counts.items()) or 'none'}"


def _last(rows: pd.DataFrame, before: pd.DataFrame | None = None) -> str:
    """Loss and accuracy at the last epoch, with those before a change."""
    sides = [side[side["epoch"] == side["epoch"].max()] for side in (before, rows) if side is not None]
    loss = " -> ".join(number(float(last["train_loss"].mean())) for last in sides)
    accuracy = " -> ".join(number(float(last["val_accuracy"].mean()), ".4f") for last in sides)
    return f"train_loss {loss}, val_accuracy {accuracy} (n = {len(sides[-1])})"


def _digits(rows: pd.DataFrame) -> str:
    """The rows as a file holds them, without seconds, which always differ."""
    return rows.drop(columns="seconds").to_csv(index=False, float_format=history.DIGITS)
