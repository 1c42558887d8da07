"""Several references side by side, to see whether what holds on one workload holds on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvbench.findings.clauses import HOLDS
from kvbench.findings.registry import FINDINGS
from kvbench.reference.store import Reference, load
from kvbench.reporting.report import ROWS, TITLES
from kvbench.results import history
from kvbench.utils.text import markdown_table


def side_by_side(folder: Path, workloads: Sequence[str]) -> str:
    """Markdown: loss and accuracy after the first, second and last epoch, and all verdicts, a column a workload.

    Raises:
        UserError: `kvbench.reference.store.load`'s.
    """
    references = [load(folder, name) for name in workloads]
    parts = [f"{title}\n\n{_curves(references, metric)}" for metric, title in TITLES.items()]
    return "\n\n".join([*parts, f"Verdicts, with the clauses that hold\n\n{_verdicts(references)}"]) + "\n"


def _curves(references: Sequence[Reference], metric: str) -> str:
    headers, columns = ["configuration"], []
    for reference in references:
        epochs = history.epochs(reference.histories)
        means = reference.histories.groupby(["configuration", "epoch"])[metric].mean().to_dict()
        for epoch in dict.fromkeys([*epochs[:2], epochs[-1]]):
            headers.append(f"{reference.workload} {epoch}")
            columns.append({name: means.get((name, epoch)) for name in ROWS})
    rows = [[name, *("-" if c[name] is None else f"{c[name]:.3f}" for c in columns)] for name in ROWS]
    return markdown_table(headers, rows)


def _verdicts(references: Sequence[Reference]) -> str:
    rows = []
    judged = [{(j.finding.id, j.recipe): j for j in reference.judgements} for reference in references]
    for finding in FINDINGS.values():
        for recipe in finding.needs():
            cells = []
            for mine in judged:
                judgement = mine.get((finding.id, recipe))
                clauses = judgement.gating if judgement else ()
                held = sum(clause.verdict == HOLDS for clause in clauses)
                cells.append(f"{judgement.verdict} ({held} of {len(clauses)})" if judgement else "-")
            rows.append([finding.id, recipe, *cells])
    headers = ["finding", "recipe"]
    for reference in references:
        seeds = len(history.seeds(reference.histories))
        headers.append(f"{reference.workload}, {f'{seeds} seeds' if seeds > 1 else '1 seed, by sign'}")
    return markdown_table(headers, rows)
