"""Making a run the reference: what is written, what stays, and what to tell about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench.findings.registry import judge
from kvbench.reference import verdicts
from kvbench.reference.compare import differing
from kvbench.reference.store import (
    COSTS,
    HISTORIES,
    PROVENANCE,
    REPLICATES,
    VERDICTS,
    Reference,
    find,
    load,
    unusable_replicates,
)
from kvbench.results import history
from kvbench.utils.errors import UserError
from kvbench.utils.files import check_name, write_whole


def update(
    folder: Path,
    workload: str,
    fresh: pd.DataFrame,
    provenance: Mapping[str, Any],
    *,
    full: bool = False,
    replicates: pd.DataFrame | None = None,
) -> str:
    """Make a run's histories the reference, and the verdicts on all histories that are then there.

    Args:
        folder: the folder of all references; ``<folder>/<workload>/`` is written, each file whole or not at all.
        workload: its name.
        fresh: complete histories: every seed of a configuration with the same epochs, losses and accuracies finite.
        provenance: facts for provenance.json; ``seeds`` is added.
        full: the run had every configuration, so recorded ones that it lacks are removed; else those stay.
        replicates: histories of some of its seeds on banks rounded otherwise; None: it has none.

    Returns:
        What changed, for a person to read.

    Raises:
        UserError: the histories are not complete, the old reference is damaged, or configurations that would stay were
            made from something else (``fingerprints``) or with other epochs. Nothing is written then.
    """
    home = folder / check_name(workload, "The name of a reference")
    new = history.check(fresh, "the run", fresh=True)
    names = history.configurations(new)
    old = load(folder, workload) if find(folder, workload) else None
    kept = pd.DataFrame(columns=list(history.COLUMNS)) if old is None else old.histories
    kept = kept[~kept["configuration"].isin(names)] if not full else kept.iloc[:0]
    epochs = history.epochs(new)
    words = [
        w for name in names for w in history.incomplete(_of(new, name), [name], history.seeds(_of(new, name)), epochs)
    ]
    if words:
        raise UserError(f"The run is not complete, so it can't become the reference: {'; '.join(words)}.")
    if old is not None and len(kept):
        clash = differing(old.fingerprints, dict(provenance.get("fingerprints") or {}))
        if old.rng_fingerprint and provenance.get("random_numbers") not in (None, old.rng_fingerprint):
            clash.append("a seed gives other random numbers here")
        if history.epochs(kept) != epochs:
            clash.append(f"the run has {len(epochs)} epochs, the reference {len(history.epochs(kept))}")
        if clash:
            raise UserError(
                f"Only some configurations can't be updated, as {'; '.join(clash)}. Update all of them: "
                "run it without -k."
            )
    merged = _merge(old.histories if old is not None else kept, kept, new)
    per_name = {name: history.seeds(_of(merged, name)) for name in history.configurations(merged)}
    same = all(seeds == per_name[names[0]] for seeds in per_name.values())
    costs = {**(old.costs if old is not None and len(kept) else {}), **dict(provenance.get(COSTS) or {})}
    made = dict(provenance)
    if old is not None and len(kept):  # what is kept was made as it says; the rest is told beside it
        parts = [*old.provenance.get("partial_updates", []), {"configurations": names, **made}]
        made = {**old.provenance, "partial_updates": parts}
    facts = {"workload": workload, **made, "seeds": per_name[names[0]] if same else per_name, "epochs": epochs}
    facts = {**facts, COSTS: costs} if costs else facts
    judged = verdicts.frame(judge(merged, costs))
    text = _difference(old, merged, judged, home)
    paired = (
        history.frame([])
        if replicates is None or replicates.empty
        else history.check(replicates, "the replicates", fresh=True)
    )
    if words := unusable_replicates(paired, new):
        raise UserError(f"The replicates do not fit the run, so it can't become the reference: {'; '.join(words)}.")
    if old is not None and len(kept) and len(old.replicates):
        paired = _merge(
            old.replicates, old.replicates[old.replicates["configuration"].isin(kept["configuration"])], paired
        )
    history.write(merged, home / HISTORIES)
    if len(paired):
        history.write(paired, home / REPLICATES)
    else:
        (home / REPLICATES).unlink(missing_ok=True)
    verdicts.write(judged, home / VERDICTS)
    with write_whole(home / PROVENANCE) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return text


def _of(histories: pd.DataFrame, name: str) -> pd.DataFrame:
    return histories[histories["configuration"] == name]


def _merge(old: pd.DataFrame, kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Fresh rows in the place of recorded ones, new configurations at the end; as the file will hold them."""
    order = [*history.configurations(old), *history.configurations(new)]
    pieces = [_of(side, name) for name in dict.fromkeys(order) for side in (new, kept) if len(_of(side, name))]
    return history.rounded(history.check(pd.concat(pieces, ignore_index=True), "the new reference"))


def _difference(old: Reference | None, merged: pd.DataFrame, judged: pd.DataFrame, home: Path) -> str:
    """What an update changes, one line each."""
    before = old.histories if old is not None else merged.iloc[:0]
    lines = []
    same = 0
    for name in dict.fromkeys([*history.configurations(before), *history.configurations(merged)]):
        was, now = _of(before, name), _of(merged, name)
        if was.empty:
            lines.append(f"new      {name}: {_ends(now)}")
        elif now.empty:
            lines.append(f"removed  {name}: {_ends(was)}")
        elif _digits(was) != _digits(now):
            lines.append(f"changed  {name}: {_ends(was)} -> {_ends(now)}")
        else:
            same += 1
    keys = ["finding", "recipe", "clause"]
    earlier = {} if old is None else {tuple(r[:3]): str(r[3]) for r in old.recorded[[*keys, "verdict"]].to_numpy()}
    later = {tuple(r[:3]): str(r[3]) for r in judged[[*keys, "verdict"]].to_numpy()}
    for key in dict.fromkeys([*earlier, *later]):
        one, other = earlier.get(key, "not recorded"), later.get(key, "no longer judged")
        if one != other and old is not None:
            lines.append(f"verdict  {key[0]} ({key[1]}), {key[2]}: {one} -> {other}")
    counts = judged["verdict"].value_counts().to_dict()
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none"
    lines.append(f"{same} configurations unchanged; clauses now: {told}")
    return "\n".join([f"Reference written to {home}:", *(f"  {line}" for line in lines)])


def _ends(rows: pd.DataFrame) -> str:
    last = rows[rows["epoch"] == rows["epoch"].max()]
    loss, accuracy = last["train_loss"].mean(), last["val_accuracy"].mean()
    return f"train_loss {loss:.4g}, val_accuracy {accuracy:.4f} (n = {len(last)})"


def _digits(rows: pd.DataFrame) -> str:
    """The rows as a file holds them, without seconds, which always differ."""
    return rows.drop(columns="seconds").to_csv(index=False, float_format=history.DIGITS)
