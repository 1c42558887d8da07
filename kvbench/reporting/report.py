"""Reports: histories, verdicts and facts as markdown, with the source's two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvbench.findings.clauses import Clause
from kvbench.findings.design import Design
from kvbench.findings.judge import BY_SIGN, Judgement, judge, missing
from kvbench.reference.store import load
from kvbench.results import history
from kvbench.results.saved import OWN, RunOutcome, Saved
from kvbench.stats.intervals import exact_mean
from kvbench.utils.text import Marked, escape, item, markdown_table, number
from kvbench.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from kvbench.reference.timing import Timing

EPOCHS = (1, 2, 3, 5, 10)  # columns of the tables, where there are too many for all of them
HIDDEN = (*OWN, "workload", "seeds", "epochs", "fingerprints", "random_numbers")  # facts for programs
TITLES = {"train_loss": "Training loss (nat, mean over the epoch)", "val_accuracy": "Validation accuracy (top-1)"}


def tables(histories: pd.DataFrame, design: Design) -> str:
    """Training losses and accuracies of a history frame, two tables in markdown: a row a configuration, 3 decimals.

    Means over seeds. In each column of a block (one recipe) the best is **bold** and the best of the design's ``focus``
    *italic*, all of them where they tie. Columns are the epochs 1, 2, 3, 5, 10 and the last, or all if there are at
    most five.
    """
    italic = f"; *italic*: best {design.focus} model of it" if design.focus else ""
    parts = [f"Means over seeds, {_seeds(histories)}. **Bold**: best of its recipe{italic}."]
    parts += [f"{title}\n\n{_table(histories, design, metric)}" for metric, title in TITLES.items()]
    if any("| -" in part for part in parts[1:]):
        parts.append("-: not measured, or no number for some seed.")
    return "\n\n".join(parts)


def seconds(histories: pd.DataFrame, design: Design, timings: Sequence[Timing] = ()) -> str:
    """Markdown table of seconds per training epoch of each configuration; empty if none was measured.

    ``timings`` hold each configuration's share of the run's mean, next to the reference's.
    """
    rows = []
    judged = {timing.configuration: timing for timing in timings}
    for name in _order(histories, design):
        cells = history.of(histories, name)["seconds"].to_numpy()
        cells = cells[~np.isnan(cells)]
        if len(cells):
            # the median, as one stalled epoch would move a mean
            row = [name, *(number(float(cell), ".3g") for cell in (np.median(cells), cells.min(), cells.max()))]
            row.append(str(len(cells)))
            if timing := judged.get(name):
                row += [number(timing.obtained, ".2f"), number(timing.expected, ".2f"), timing.status]
            rows.append([*row, *["-"] * (8 - len(row) if judged else 0)])
    headers = ["configuration", "median", "fastest", "slowest", "epochs timed"]
    headers += ["over the run's mean", "recorded", "status (fails no run)"] if judged else []
    return markdown_table(headers, rows) if rows else ""


def verdicts(judgements: Sequence[Judgement], recorded: Sequence[Judgement] = (), *, clauses: bool = True) -> str:
    """Markdown: a table with one row per finding and recipe, then, with ``clauses``, every clause of each.

    ``recorded`` are the judgements of a reference, for a column of their own.
    """
    if not judgements:
        return "No finding could be judged: each needs configurations that are not here."
    known = {(j.finding.id, j.recipe): f"{j.verdict} ({j.held})" for j in recorded}
    rows = [
        [j.finding.id, j.recipe, j.verdict + ("" if j.tested else BY_SIGN), j.held,
         *([known.get((j.finding.id, j.recipe), "-")] if recorded else []), j.finding.sentence]
        for j in judgements
    ]  # fmt: skip
    headers = ["finding", "recipe", "verdict", "clauses held", *(["recorded"] if recorded else []), "sentence"]
    parts = [markdown_table(headers, rows)]
    for judgement in judgements if clauses else ():
        if judgement.clauses or judgement.notes:
            title = f"{judgement.finding.id} ({judgement.recipe}): {judgement.summary}"
            notes = [f"Judged as: {judgement.judged_as}.", *(f"Note: {note}." for note in judgement.notes)]
            body = markdown_table(["clause", "verdict", "numbers", "margin"], [_clause(c) for c in judgement.clauses])
            parts += [f"#### {title}", " ".join(notes), body]
    return "\n\n".join(parts)


def report(
    histories: pd.DataFrame,
    design: Design,
    judgements: Sequence[Judgement],
    facts: Mapping[str, Any],
    outcome: Mapping[str, Any] | None = None,
    timings: Sequence[Timing] = (),
    recorded: Sequence[Judgement] = (),
    *,
    clauses: bool = True,
) -> str:
    """The whole report in markdown.

    Args:
        histories: a history frame.
        design: the study's.
        judgements: what `kvbench.findings.judge.judge` says about it.
        facts: what to say about where the numbers come from, by name: text, numbers, mappings and lists; `HIDDEN` ones
            are left out. ``workload`` is the title; if it is one of kvbench's, its row tells how the recipe differs
            from the source's.
        outcome: of a run: ``outcome`` (``passed``, ``failed``, ``incomplete`` or ``unknown``) and ``reasons`` for it,
            a sentence each. None for a reference.
        timings: what `kvbench.reference.timing.timings` says about its seconds.
        recorded: the reference's judgements, to stand beside the run's.
        clauses: below the verdicts, show every clause of every finding.
    """
    head = [f"# kvbench: {escape(_workload(facts))}", *_outcome(outcome), about(histories, design, facts)]
    parts = [
        *head,
        "## Tables",
        tables(histories, design),
        "## Verdicts",
        verdicts(judgements, recorded, clauses=clauses),
    ]
    if timed := seconds(histories, design, timings):
        parts += ["## Seconds per training epoch", timed]
    return "\n\n".join(parts) + "\n"


def about(histories: pd.DataFrame, design: Design, facts: Mapping[str, Any]) -> str:
    """Markdown list of where numbers come from; ``facts`` as in `report`."""
    words: dict[str, Any] = {}
    workload, plus, chosen = _workload(facts).partition("+")
    if workload in WORKLOADS:
        words["images"] = WORKLOADS[workload].summary
    if design.workloads.get(workload):
        words["recipe against the study's"] = design.workloads[workload]
    if plus:
        words["chosen for this run"] = chosen.replace("+", ", ")
    words["runs"] = f"{_seeds(histories)} of each configuration"
    words |= {name.replace("_", " "): value for name, value in facts.items() if name not in HIDDEN and value != ""}
    if updates := [part for part in facts.get("partial_updates", []) if isinstance(part, Mapping)]:
        told = ("configurations", "date")  # each part has all facts of its run
        words["partial updates"] = [{name: part[name] for name in told if name in part} for part in updates]
    return "\n".join(item(f"{name}: {_words(value)}") for name, value in words.items())


def report_saved(saved: Saved, design: Design, name: str | None = None) -> str:
    """The report of a saved run, judged afresh from its histories, or the clauses of one finding alone.

    Raises:
        UserError: there is no such finding.
    """
    if name:
        return _clauses(saved.histories, design, name, saved.costs)
    facts = {**saved.info, "workload": saved.workload}
    outcome = {"outcome": saved.outcome, "reasons": saved.reasons}
    return report(saved.histories, design, judge(saved.histories, design, saved.costs), facts, outcome)


def report_expected(folder: Path, workload: str, design: Design, name: str | None = None) -> str:
    """The report of the reference in ``<folder>/<workload>/``, likewise.

    Raises:
        UserError: `kvbench.reference.store.load`'s, or there is no such finding.
    """
    reference = load(folder, workload, design)
    if name:
        return _clauses(reference.histories, design, name, reference.costs)
    facts = {**reference.provenance, "workload": workload}
    return report(reference.histories, design, reference.judgements, facts)


def _clauses(histories: pd.DataFrame, design: Design, name: str, costs: Mapping[str, float]) -> str:
    """One finding with all its clauses, and what is missing to judge it."""
    row = design.finding(name)
    texts = [judgement.describe() for judgement in judge(histories, design, costs) if judgement.finding is row]
    lacking = missing(row, histories, design).items()
    texts += [f"{name} ({recipe}): lacks {', '.join(names)}" for recipe, names in lacking]
    return "\n\n".join(texts) + "\n"


def _outcome(outcome: Mapping[str, Any] | None) -> list[str]:
    """What to say first about a run, in a list of at most one."""
    if outcome is None or outcome["outcome"] == RunOutcome.PASSED:
        return ["This run passed."] if outcome else []
    text = {
        RunOutcome.FAILED: "This run FAILED: do not use it as a baseline.",
        RunOutcome.INCOMPLETE: "This run is INCOMPLETE, not everything was compared: do not use it as a baseline.",
    }.get(outcome["outcome"], "This run does not say whether it passed: do not use it as a baseline.")
    heads = [str(reason).partition("\n")[0].rstrip(":") for reason in outcome.get("reasons", [])]
    return ["\n".join([f"**{text}**", "", *map(item, heads)]).strip()]


def _workload(facts: Mapping[str, Any]) -> str:
    return str(facts.get("workload", "unknown workload"))


def _seeds(histories: pd.DataFrame) -> str:
    """``n = 3``, or the range if configurations differ."""
    counts = sorted({int(count) for count in histories.groupby("configuration")["seed"].nunique()})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _order(histories: pd.DataFrame, design: Design) -> list[str]:
    """The study's configurations first, in its order, then the others."""
    return [name for block in design.blocks(history.configurations(histories)).values() for name in block.values()]


def _epochs(histories: pd.DataFrame) -> list[int]:
    every = history.epochs(histories)
    return every if len(every) <= len(EPOCHS) else [e for e in every if e in EPOCHS or e == every[-1]]


def _table(histories: pd.DataFrame, design: Design, metric: str) -> str:
    """Of one metric: a block of rows for each recipe."""
    epochs = _epochs(histories)
    groups = histories.groupby(["configuration", "epoch"])[metric]
    means = {key: number(exact_mean(cells), ".3f", missing="-") for key, cells in groups}
    best = min if metric in history.LOSSES else max
    focus = design.groups.get(design.focus, ())
    rows = []
    for block in design.blocks(history.configurations(histories)).values():
        columns = []
        for epoch in epochs:
            cells = {student: means.get((name, epoch), "-") for student, name in block.items()}
            # compared as shown: what looks like a tie is one
            shown = {student: float(cell) for student, cell in cells.items() if cell[-1].isdigit()}
            marked = {student: value for student, value in shown.items() if student in focus}
            stars = dict.fromkeys(block, 0)
            for mark, among in ((2, shown), (1, marked)):
                for student, value in among.items():
                    stars[student] += mark * (value == best(among.values()))
            columns.append(
                [Marked(f"{'*' * stars[student]}{cell}{'*' * stars[student]}") for student, cell in cells.items()]
            )
        rows += [[name, *cells] for name, *cells in zip(block.values(), *columns, strict=True)]
    return markdown_table(["configuration", *map(str, epochs)], rows)


def _clause(clause: Clause) -> list[str]:
    uncounted = "" if clause.gating else " (for information)"
    margin = clause.describe_margin().removeprefix("margin ")
    return [f"{clause.id}: {clause.sentence}{uncounted}", clause.verdict, clause.numbers, margin]


def _words(value: object) -> str:
    """A fact in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_words(part)}" for name, part in value.items())
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return number(value, missing="unknown")
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(part) for part in value)
    return str(value)
