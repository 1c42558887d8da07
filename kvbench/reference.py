"""References: ``expected/<workload>/`` with histories.csv, verdicts.csv and provenance.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kvbench import history, verdicts
from kvbench.comparison import compare, differing
from kvbench.errors import UserError
from kvbench.files import write_whole
from kvbench.findings import Judgement, judge_all

__all__ = ["Reference", "available", "command", "compare", "load", "update", "verdict_changes"]

HISTORIES, VERDICTS, PROVENANCE = "histories.csv", "verdicts.csv", "provenance.json"
COSTS = "flops_per_sample"  # in provenance.json
UPDATE = "--kvbench-update-expected"
SEEDS = 8  # fewer make the intervals of comparisons too wide to see much


@dataclass(frozen=True)
class Reference:
    """What a workload's runs are compared with.

    Args:
        workload: its name.
        folder: where it lies.
        histories: the history frame.
        recorded: verdicts, with `kvbench.verdicts.COLUMNS`.
        provenance: where the numbers come from. kvbench reads ``seeds`` (a list, or one for each configuration) and,
            where they exist, ``epochs``, ``epochs_reported`` (of a published table), ``fingerprints`` and
            ``flops_per_sample``.
        command: the one that runs the workload as it was run, for messages.
    """

    workload: str
    folder: Path
    histories: pd.DataFrame
    recorded: pd.DataFrame
    provenance: Mapping[str, Any]
    command: str

    @property
    def update_command(self) -> str:
        """The command that would make a fresh run the reference, with no fewer seeds than there are."""
        return f"{self.command} --kvbench-seeds {max(SEEDS, len(history.seeds(self.histories)))} {UPDATE}"

    @property
    def fingerprints(self) -> Mapping[str, Any]:
        """What the recorded run was made from; empty if not known."""
        return dict(self.provenance.get("fingerprints") or {})

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
    """How fresh judgements differ from the recorded verdicts: see `kvbench.verdicts.changes`."""
    return verdicts.changes(reference.recorded, judgements, reference.command, reference.update_command, configurations)


def command(workload: str) -> str:
    """The command that runs a workload."""
    return f"pytest benchmarks/ --kvbench-workload {workload}"


def available(folder: Path) -> list[str]:
    """The workloads that have a reference in a folder, sorted; none if there is no folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{HISTORIES}"))


def load(folder: Path, workload: str, run: str = "") -> Reference:
    """Read ``<folder>/<workload>/``; ``run`` is the command that runs the workload, where it is not the plain one.

    Raises:
        UserError: there is no reference (names the folder and the command that makes one), or a file of it is damaged:
            unreadable, impossible values, missing rows, an unknown finding.
    """
    home = folder / workload
    if not (home / HISTORIES).is_file():
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
    return Reference(workload, home, histories, verdicts.read(home / VERDICTS), provenance, run or command(workload))


def update(
    folder: Path, workload: str, fresh: pd.DataFrame, provenance: Mapping[str, Any], *, full: bool = False
) -> str:
    """Make a run's histories the reference, and the verdicts on all histories that are then there.

    Args:
        folder: the folder of all references; ``<folder>/<workload>/`` is written, each file whole or not at all.
        workload: its name.
        fresh: complete histories: every seed of a configuration with the same epochs, losses and accuracies finite.
        provenance: facts for provenance.json; ``seeds`` is added.
        full: the run had every configuration, so recorded ones that it lacks are removed; else those stay.

    Returns:
        What changed, for a person to read.

    Raises:
        UserError: the histories are not complete, the old reference is damaged, or configurations that would stay were
            made from something else (``fingerprints``) or with other epochs. Nothing is written then.
    """
    home = folder / workload
    new = history.check(fresh, "the run", fresh=True)
    names = history.configurations(new)
    old = load(folder, workload) if (home / HISTORIES).is_file() else None
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
    judged = verdicts.frame(judge_all(merged, costs))
    text = _difference(old, merged, judged, home)
    history.write(merged, home / HISTORIES)
    verdicts.write(judged, home / VERDICTS)
    with write_whole(home / PROVENANCE) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return text


def _provenance(path: Path) -> dict[str, Any]:
    """Read provenance.json; raises `UserError` if it is not an object with the types that kvbench reads."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}.") from None
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
    if not all(isinstance(cost, (int, float)) for cost in facts.get(COSTS, {}).values()):
        raise UserError(f"{path}: {COSTS} holds something that is not a number.")
    return facts


def _integers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)


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
