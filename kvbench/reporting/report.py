"""Reports: histories, verdicts and facts as markdown, with the source's two tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvbench.findings.clauses import Clause, format_margin
from kvbench.findings.design import Design
from kvbench.findings.judge import BY_SIGN, Judgement, missing
from kvbench.reference.tolerances import HEADERS
from kvbench.reporting.table import BOLD, Starred, Table
from kvbench.results import history
from kvbench.results.saved import OWN, Outcome
from kvbench.stats.intervals import exact_mean
from kvbench.utils.text import escape, item, number, plain
from kvbench.workloads import WORKLOADS

if TYPE_CHECKING:
    import pandas as pd

    from kvbench.reference.compare import Comparison
    from kvbench.reference.standing import Standing
    from kvbench.reference.timing import Timing

EPOCHS = (1, 2, 3, 5, 10)  # columns of the tables, where there are too many for all of them
HIDDEN = (  # facts for programs
    *OWN, "workload", "seeds", "epochs", "fingerprints", "projections", "probes", "random_numbers",
)  # fmt: skip
TITLES = {
    "train_loss": "Training loss (nat, mean over the epoch)",
    "val_loss": "Validation loss (nat)",
    "val_accuracy": "Validation accuracy (top-1)",
    "agreement": "Agreement with the teacher (top-1)",
}
NOT_JUDGED = "No finding could be judged: each needs configurations that are not here."
NO_NUMBER = "-: not measured, or no number for some seed."
SHOWN = ("train_loss", "val_accuracy")  # the source's two tables


def tables(histories: pd.DataFrame, design: Design) -> str:
    """Training losses and accuracies of a history frame, two tables in markdown: a row a configuration, 3 decimals.

    Means over seeds. In each column of a block (one recipe) the best is **bold** and the best of the design's ``focus``
    *italic*, all of them where they tie. Columns are the epochs 1, 2, 3, 5, 10 and the last, or all if there are at
    most five.
    """
    parts = [caption(histories, design)]
    measured = [metric for metric in SHOWN if histories[metric].notna().any()]
    parts += [f"{TITLES[metric]}\n\n{metric_table(histories, design, metric).markdown()}" for metric in measured]
    if any("| -" in part for part in parts[1:]):
        parts.append(NO_NUMBER)
    return "\n\n".join(parts)


def caption(histories: pd.DataFrame, design: Design, bold: str = "**Bold**", italic: str = "*italic*") -> str:
    """What the numbers and marks of the tables are; ``bold`` and ``italic`` show themselves."""
    marked = f"; {italic}: best {design.focus} model of it" if design.focus else ""
    return f"Means over seeds, {seed_count(histories)}. {bold}: best of its recipe{marked}."


def seconds(histories: pd.DataFrame, design: Design, timings: Sequence[Timing] = ()) -> str:
    """Markdown of `seconds_table`; empty if none was measured."""
    table = seconds_table(histories, design, timings)
    return table.markdown() if table.rows else ""


def seconds_table(histories: pd.DataFrame, design: Design, timings: Sequence[Timing] = ()) -> Table:
    """Seconds per training epoch of each configuration for which they were measured.

    ``timings`` hold each configuration's share of the run's mean, next to the reference's.
    """
    rows = []
    judged = {timing.configuration: timing for timing in timings}
    measured = {name: cells.to_numpy() for name, cells in histories.groupby("configuration")["seconds"]}
    for name in order(histories, design):
        cells = measured[name]
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
    return Table(headers, rows)


def verdicts(judgements: Sequence[Judgement], standings: Sequence[Standing] = (), *, clauses: bool = True) -> str:
    """Markdown: a table with one row per finding and recipe, then, with ``clauses``, every clause of each.

    ``standings`` are the same beside the recorded verdicts, where there are some.
    """
    if not judgements:
        return NOT_JUDGED
    parts = [verdict_table(judgements, standings).markdown()]
    for judgement in judgements if clauses else ():
        if judgement.clauses or judgement.notes:
            parts += [f"#### {title(judgement)}", remarks(judgement), clause_table(judgement).markdown()]
    return "\n\n".join(parts)


def verdict_table(judgements: Sequence[Judgement], standings: Sequence[Standing] = ()) -> Table:
    """A row per finding and recipe; ``standings`` as in `verdicts`."""
    if standings:
        rows = [[one.judgement.finding.id, one.judgement.recipe, one.words, one.alone, one.before,
                 one.judgement.finding.sentence] for one in standings]  # fmt: skip
        return Table(["finding", "recipe", "verdict", "this run alone", "recorded", "sentence"], rows)
    rows = [[j.finding.id, j.recipe, j.verdict + ("" if j.tested else BY_SIGN), j.held, j.finding.sentence]
            for j in judgements]  # fmt: skip
    return Table(["finding", "recipe", "verdict", "clauses held", "sentence"], rows)


def differences(comparisons: Sequence[Comparison], standings: Sequence[Standing]) -> str:
    """Markdown: how many configurations are where the reference has them, and all numbers of what is not."""
    good = sum(one.judged and not one.failed for one in comparisons)
    parts = [f"{good} of {len(comparisons)} configurations are within the reference."]
    parts += [f"```\n{plain(one.describe()).replace('```', '')}\n```" for one in comparisons if one.failed]
    changes = [change for one in standings for change in one.changes]
    parts += ["\n".join(item(change.describe()) for change in changes)] if changes else []
    return "\n\n".join(parts)


def title(judgement: Judgement) -> str:
    """Finding, recipe and verdict, for a heading."""
    return f"{judgement.finding.id} ({judgement.recipe}): {judgement.summary}"


def remarks(judgement: Judgement) -> str:
    """How a finding was judged, and what there is to note."""
    return " ".join([f"Judged as: {judgement.judged_as}.", *(f"Note: {note}." for note in judgement.notes)])


def clause_table(judgement: Judgement) -> Table:
    """Every clause of a judgement."""
    return Table(("clause", "verdict", "numbers", "margin"), [_clause(clause) for clause in judgement.clauses])


def every_clause(judgements: Sequence[Judgement]) -> Table:
    """Every clause of every judgement, a row each."""
    rows = []
    for judgement in judgements:
        for clause in judgement.clauses:
            ends = clause.margin, clause.low, clause.high
            margin, low, high = (format_margin(value, clause.scale) for value in ends)
            interval = f"{low} to {high}" if math.isfinite(clause.high - clause.low) else "-"
            counted = "yes" if clause.gating else "no"
            rows.append([judgement.finding.id, judgement.recipe, clause.id, clause.verdict, margin, interval,
                         str(clause.n), counted, clause.sentence, clause.numbers])  # fmt: skip
    headers = ("finding", "recipe", "clause", "verdict", "margin", "95% interval", "seeds", "counts", "sentence",
               "numbers")  # fmt: skip
    return Table(headers, rows)


def tolerance_table(comparisons: Sequence[Comparison]) -> Table:
    """Every number that was held against the reference, a row each; statuses that fail are bold."""
    rows: list[list[str | Starred]] = []
    for one in comparisons:
        for deviation in one.deviations:
            _, *cells, status = deviation.row()
            rows.append([one.configuration, *cells, Starred(status, BOLD if deviation.status.failed else 0)])
    return Table(("configuration", *HEADERS[1:]), rows)


def report(
    histories: pd.DataFrame,
    design: Design,
    judgements: Sequence[Judgement],
    facts: Mapping[str, Any],
    outcome: Mapping[str, Any] | None = None,
    timings: Sequence[Timing] = (),
    standings: Sequence[Standing] = (),
    comparisons: Sequence[Comparison] = (),
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
        standings: its judgements beside the recorded verdicts.
        comparisons: its configurations against the reference.
        clauses: below the verdicts, show every clause of every finding.
    """
    head = [f"# kvbench: {escape(workload_of(facts))}", *_outcome(outcome), about(histories, design, facts)]
    parts = [
        *head,
        "## Tables",
        tables(histories, design),
        "## Verdicts",
        verdicts(judgements, standings, clauses=clauses),
    ]
    if comparisons:
        parts += ["## Against the reference", differences(comparisons, standings)]
    if timed := seconds(histories, design, timings):
        parts += ["## Seconds per training epoch", timed]
    return "\n\n".join(parts) + "\n"


def about(histories: pd.DataFrame, design: Design, facts: Mapping[str, Any]) -> str:
    """Markdown list of where numbers come from; ``facts`` as in `report`."""
    return "\n".join(item(f"{name}: {value}") for name, value in words(histories, design, facts).items())


def words(histories: pd.DataFrame, design: Design, facts: Mapping[str, Any]) -> dict[str, str]:
    """Where numbers come from, by name; ``facts`` as in `report`."""
    found: dict[str, Any] = {}
    workload, plus, chosen = workload_of(facts).partition("+")
    if workload in WORKLOADS:
        found["images"] = WORKLOADS[workload].summary
    if design.workloads.get(workload):
        found["recipe against the study's"] = design.workloads[workload]
    if plus:
        found["chosen for this run"] = chosen.replace("+", ", ")
    found["runs"] = f"{seed_count(histories)} of each configuration"
    found |= {name.replace("_", " "): value for name, value in facts.items() if name not in HIDDEN and value != ""}
    listed = facts.get("partial_updates")
    if updates := [part for part in listed if isinstance(part, Mapping)] if isinstance(listed, list) else []:
        kept = ("configurations", "date")  # each part has all facts of its run
        found["partial updates"] = [{name: part[name] for name in kept if name in part} for part in updates]
    return {name: _words(value) for name, value in found.items()}


def one_finding(name: str, judgements: Sequence[Judgement], histories: pd.DataFrame, design: Design) -> str:
    """One finding with all its clauses, and what is missing to judge it.

    Raises:
        UserError: there is no such finding.
    """
    row = design.finding(name)
    texts = [judgement.describe() for judgement in judgements if judgement.finding is row]
    lacking = missing(row, histories, design).items()
    texts += [f"{name} ({recipe}): lacks {', '.join(names)}" for recipe, names in lacking]
    return "\n\n".join(texts) + "\n"


def _outcome(outcome: Mapping[str, Any] | None) -> list[str]:
    """What to say first about a run, in a list of at most one."""
    if not outcome:
        return []
    text, reasons = conclusion(outcome)
    text = text if outcome["outcome"] in {Outcome.PASSED, Outcome.RECORDED} else f"**{text}**"
    return ["\n".join([text, "", *map(item, reasons)]).strip()]


def conclusion(outcome: Mapping[str, Any]) -> tuple[str, list[str]]:
    """How a run ended, in a sentence, and why it did not pass, a line each."""
    if outcome["outcome"] == Outcome.PASSED:
        return "This run passed.", []
    if outcome["outcome"] == Outcome.RECORDED:
        return "This run wrote the reference, as it was asked to.", []
    text = {
        Outcome.FAILED: "This run FAILED: do not use it as a baseline.",
        Outcome.INCOMPLETE: "This run is INCOMPLETE, not everything was compared: do not use it as a baseline.",
    }.get(outcome["outcome"], "This run does not say whether it passed: do not use it as a baseline.")
    return text, [str(reason).partition("\n")[0].rstrip(":") for reason in outcome.get("reasons", [])]


def workload_of(facts: Mapping[str, Any]) -> str:
    return str(facts.get("workload", "unknown workload"))


def seed_count(histories: pd.DataFrame) -> str:
    """``n = 3``, or the range if configurations differ."""
    counts = sorted({int(count) for count in histories.groupby("configuration")["seed"].nunique()})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def order(histories: pd.DataFrame, design: Design) -> list[str]:
    """The study's configurations first, in its order, then the others."""
    return [name for block in design.blocks(history.configurations(histories)).values() for name in block.values()]


def _epochs(histories: pd.DataFrame) -> list[int]:
    every = history.epochs(histories)
    return every if len(every) <= len(EPOCHS) else [e for e in every if e in EPOCHS or e == every[-1]]


def metric_table(histories: pd.DataFrame, design: Design, metric: str) -> Table:
    """Of one metric: a block of rows for each recipe."""
    epochs = _epochs(histories)
    groups = histories[histories["epoch"].isin(epochs)].groupby(["configuration", "epoch"])[metric]
    means, ends = dict[Any, str](), dict[Any, str]()
    for key, seeds in groups:
        means[key] = number(exact_mean(seeds), ".3f", missing="-")
        if len(seeds) > 1 and np.isfinite(seeds).all():
            ends[key] = f"{number(float(seeds.min()), '.3f')} to {number(float(seeds.max()), '.3f')}"
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
            columns.append([Starred(cell, stars[student], ends.get((block[student], epoch), ""))
                            for student, cell in cells.items()])  # fmt: skip
        rows += [[name, *cells] for name, *cells in zip(block.values(), *columns, strict=True)]
    return Table(["configuration", *map(str, epochs)], rows)


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
