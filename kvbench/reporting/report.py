"""Reports: histories, verdicts and facts as markdown, with the source's two tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvbench.core.recipe import SCHEDULED
from kvbench.findings.claims import MEMORY, SIMPLE
from kvbench.findings.clauses import HOLDS, Clause
from kvbench.findings.registry import BY_SIGN, Judgement, judge
from kvbench.findings.registry import finding as find
from kvbench.reference.store import load
from kvbench.results import history
from kvbench.results.saved import OWN, RunOutcome
from kvbench.results.saved import read as read_saved
from kvbench.utils.text import Marked, escape, item, markdown_table
from kvbench.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from kvbench.reference.timing import Timing

EPOCHS = (1, 2, 3, 5, 10)  # the source's columns
ROWS = tuple(prefix + student for prefix in (SCHEDULED, "") for student in SIMPLE + MEMORY)
HIDDEN = (*OWN, "workload", "seeds", "epochs", "fingerprints", "random_numbers")  # facts for programs
TITLES = {"train_loss": "Training loss (nat, mean over the epoch)", "val_accuracy": "Validation accuracy (top-1)"}


def tables(histories: pd.DataFrame) -> str:
    """The source's two tables from a history frame, in markdown: same rows, columns and order, 3 decimals.

    Means over seeds. In each column of a block (one recipe) the best is **bold** and the best memory model *italic*,
    all of them where they tie. Columns are the epochs 1, 2, 3, 5, 10 and the last, or all if there are at most five.
    """
    parts = [f"Means over seeds, {_seeds(histories)}. **Bold**: best of its recipe; *italic*: best memory model of it."]
    parts += [f"{title}\n\n{_table(histories, metric)}" for metric, title in TITLES.items()]
    return "\n\n".join(parts)


def seconds(histories: pd.DataFrame, timings: Sequence[Timing] = ()) -> str:
    """Markdown table of seconds per training epoch of each configuration; empty if none was measured.

    ``timings`` tell each configuration's share of the run's mean, beside the reference's.
    """
    rows = []
    told = {pace.configuration: pace for pace in timings}
    for name in _order(histories):
        measured = histories.loc[histories["configuration"] == name, "seconds"].dropna()
        if len(measured):
            cells = [measured.median(), measured.min(), measured.max()]  # one stalled epoch would move a mean
            pace = told.get(name)
            side_by_side = [f"{pace.obtained:.2f}", f"{pace.expected:.2f}", pace.verdict] if pace else ["-"] * 3
            rows.append([name, *(f"{cell:.3g}" for cell in cells), str(len(measured)), *side_by_side * bool(told)])
    headers = ["configuration", "median", "fastest", "slowest", "epochs timed"]
    headers += ["over the run's mean", "recorded", "verdict (fails no run)"] if told else []
    return markdown_table(headers, rows) if rows else ""


def verdicts(judgements: Sequence[Judgement], recorded: Sequence[Judgement] = (), *, clauses: bool = True) -> str:
    """Markdown: a table with one row per finding and recipe, then, with ``clauses``, every clause of each.

    ``recorded`` are the judgements of a reference, to stand beside.
    """
    if not judgements:
        return "No finding could be judged: each needs configurations that are not here."
    rows = [
        [
            j.finding.id,
            j.recipe,
            j.verdict + ("" if j.tested else BY_SIGN),
            _held(j),
            j.finding.sentence,
        ]
        for j in judgements
    ]
    headers = ["finding", "recipe", "verdict", "clauses held", "the source says"]
    if recorded:
        known = {(j.finding.id, j.recipe): f"{j.verdict} ({_held(j)})" for j in recorded}
        headers.insert(4, "recorded")
        for row in rows:
            row.insert(4, known.get((row[0], row[1]), "-"))
    parts = [markdown_table(headers, rows)]
    for judgement in judgements if clauses else ():
        if judgement.clauses or judgement.notes:
            title = f"{judgement.finding.id} ({judgement.recipe}): {judgement.summary}"
            about = [f"Judged as: {judgement.finding.judged_as}.", *(f"Note: {note}." for note in judgement.notes)]
            body = markdown_table(["clause", "verdict", "numbers", "margin"], [_clause(c) for c in judgement.clauses])
            parts.append("\n\n".join(part for part in (f"#### {title}", " ".join(about), body) if part))
    return "\n\n".join(parts)


def report(
    histories: pd.DataFrame,
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
        judgements: what `kvbench.findings.registry.judge` says about it.
        facts: what to say about where the numbers come from, by name: text, numbers, mappings and lists; `HIDDEN` ones
            are left out. ``workload`` is the title; if it is one of kvbench's, its row tells how the recipe differs
            from the source's.
        outcome: of a run: ``outcome`` (``passed``, ``failed``, ``incomplete`` or ``unknown``) and ``reasons`` for it,
            a sentence each. None for a reference.
        timings: what `kvbench.reference.timing.timings` says about its seconds.
        recorded: the reference's judgements, to stand beside the run's.
        clauses: below the verdicts, show every clause of every finding.
    """
    head = [f"# kvbench: {escape(_workload(facts))}", *_outcome(outcome), about(histories, facts)]
    parts = [*head, "## Tables", tables(histories), "## Verdicts", verdicts(judgements, recorded, clauses=clauses)]
    if timed := seconds(histories, timings):
        parts += ["## Seconds per training epoch", timed]
    return "\n\n".join(parts) + "\n"


def about(histories: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """Markdown list of where numbers come from; ``facts`` as in `report`."""
    words: dict[str, Any] = {}
    if (workload := _workload(facts)) in WORKLOADS:
        words["images"] = WORKLOADS[workload].summary
        words["recipe against the source's"] = WORKLOADS[workload].differs or "the same"
    words["runs"] = f"{_seeds(histories)} of each configuration"
    words |= {name.replace("_", " "): value for name, value in facts.items() if name not in HIDDEN and value != ""}
    return "\n".join(item(f"{name}: {_words(value)}") for name, value in words.items())


def report_saved(path: Path, finding: str | None = None) -> str:
    """The report of a saved run, judged afresh from its histories, or the clauses of one finding alone.

    Raises:
        UserError: `kvbench.results.saved.read`'s, or there is no such finding.
    """
    saved = read_saved(path)
    if finding:
        return _clauses(saved.histories, finding, saved.costs)
    facts = {**saved.info, "workload": saved.workload}
    outcome = {"outcome": saved.outcome, "reasons": saved.reasons}
    return report(saved.histories, judge(saved.histories, saved.costs), facts, outcome)


def report_expected(folder: Path, workload: str, finding: str | None = None) -> str:
    """The report of the reference in ``<folder>/<workload>/``, likewise.

    Raises:
        UserError: `kvbench.reference.store.load`'s, or there is no such finding.
    """
    reference = load(folder, workload)
    if finding:
        return _clauses(reference.histories, finding, reference.costs)
    facts = {**reference.provenance, "workload": workload}
    return report(reference.histories, reference.judgements, facts)


def _clauses(histories: pd.DataFrame, name: str, costs: Mapping[str, float]) -> str:
    """One finding with all its clauses, and what it lacks."""
    finding = find(name)
    told = [judgement.describe() for judgement in judge(histories, costs) if judgement.finding is finding]
    told += [f"{name} ({recipe}): lacks {', '.join(what)}" for recipe, what in finding.lacks(histories).items()]
    return "\n\n".join(told) + "\n"


def _outcome(outcome: Mapping[str, Any] | None) -> list[str]:
    """What to say first about a run, in a list of at most one."""
    if outcome is None or outcome["outcome"] == RunOutcome.PASSED:
        return ["This run passed."] if outcome else []
    told = {
        RunOutcome.FAILED: "This run FAILED: do not use it as a baseline.",
        RunOutcome.INCOMPLETE: "This run is INCOMPLETE, not everything was compared: do not use it as a baseline.",
    }.get(outcome["outcome"], "This run does not say whether it passed: do not use it as a baseline.")
    heads = [str(reason).partition("\n")[0] for reason in outcome.get("reasons", [])]
    return ["\n".join([f"**{told}**", "", *map(item, heads)]).strip()]


def _workload(facts: Mapping[str, Any]) -> str:
    return str(facts.get("workload", "unknown workload"))


def _seeds(histories: pd.DataFrame) -> str:
    """``n = 3``, or the range if configurations differ."""
    counts = sorted({int(count) for count in histories.groupby("configuration")["seed"].nunique()})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _order(histories: pd.DataFrame) -> list[str]:
    """The source's rows first, in its order, then the others."""
    names = history.configurations(histories)
    return [*(name for name in ROWS if name in names), *(name for name in names if name not in ROWS)]


def _epochs(histories: pd.DataFrame) -> list[int]:
    every = history.epochs(histories)
    return every if len(every) <= len(EPOCHS) else [e for e in every if e in EPOCHS or e == every[-1]]


def _table(histories: pd.DataFrame, metric: str) -> str:
    """One of the source's tables."""
    names, epochs = _order(histories), _epochs(histories)
    means = histories.groupby(["configuration", "epoch"])[metric].mean().to_dict()
    shown = {(n, e): f"{means.get((n, e), math.nan):.3f}" for n in names for e in epochs}
    best = min if metric == "train_loss" else max
    rows = []
    for name in names:
        block = [other for other in names if other.startswith(SCHEDULED) == name.startswith(SCHEDULED)]
        cells = []
        for epoch in epochs:
            cell = shown[name, epoch]
            # compared as shown: what looks like a tie is one
            there = {other: float(shown[other, epoch]) for other in block if shown[other, epoch] != "nan"}
            memory = {other: value for other, value in there.items() if other.removeprefix(SCHEDULED) in MEMORY}
            stars = 0
            if name in there:
                stars += 2 * (there[name] == best(there.values()))
                stars += name in memory and memory[name] == best(memory.values())
            cells.append(Marked(f"{'*' * stars}{cell}{'*' * stars}") if name in there else "-")
        rows.append([name, *cells])
    return markdown_table(["configuration", *(str(epoch) for epoch in epochs)], rows)


def _clause(clause: Clause) -> list[str]:
    aside = "" if clause.gating else " (beside, does not count)"
    margin = clause.describe_margin().removeprefix("margin ")
    return [f"{clause.id}: {clause.sentence}{aside}", clause.verdict, clause.numbers, margin]


def _held(judgement: Judgement) -> str:
    return f"{sum(c.verdict == HOLDS for c in judgement.gating)} of {len(judgement.gating)}"


def _words(value: object) -> str:
    """A fact in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_words(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(part) for part in value)
    return str(value)
