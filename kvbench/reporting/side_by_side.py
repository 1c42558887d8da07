"""Several references in one page, to see whether what holds on one workload holds on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvbench.findings.kv_memory import FINDINGS
from kvbench.reference.store import Reference, load
from kvbench.reporting.report import about, tables
from kvbench.utils.text import escape, markdown_table

ABOUT = """\
The verdict on each finding, and how many of its clauses hold. *both*: judged once, StepLR against constant lr. One seed
is judged by the sign of a difference, without a test."""


def side_by_side(folder: Path, workloads: Sequence[str]) -> str:
    """Markdown: all verdicts, a column a workload; then where each workload's numbers come from, and its two tables.

    Raises:
        UserError: `kvbench.reference.store.load`'s.
    """
    references = [load(folder, name) for name in workloads]
    parts = [f"# kvbench: {escape(', '.join(workloads))}", "## Verdicts", ABOUT, _verdicts(references)]
    for reference in references:
        facts = {**reference.provenance, "workload": reference.workload}
        parts += [f"## {escape(reference.workload)}", about(reference.histories, facts), tables(reference.histories)]
    return "\n\n".join(parts) + "\n"


def _verdicts(references: Sequence[Reference]) -> str:
    judged = [{(j.finding.id, j.recipe): j for j in reference.judgements} for reference in references]
    rows = []
    for finding in FINDINGS.values():
        for recipe in finding.needs():
            found = [judgements.get((finding.id, recipe)) for judgements in judged]
            cells = [f"{j.verdict} {j.held.replace(' of ', '/')}" if j else "-" for j in found]
            rows.append([finding.id, "both" if finding.compares_recipes else recipe, *cells])
    return markdown_table(["finding", "recipe", *(reference.workload for reference in references)], rows)
