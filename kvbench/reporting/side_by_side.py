"""Several references in one page, to see whether what holds on one workload holds on another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from kvbench.findings.design import Design
from kvbench.reference.store import Reference, load
from kvbench.reporting.report import about, tables
from kvbench.utils.text import WIDTH, escape, markdown_table


def side_by_side(folder: Path, workloads: Sequence[str], design: Design) -> str:
    """Markdown: all verdicts, a column a workload; then where each workload's numbers come from, and its two tables.

    Raises:
        UserError: `kvbench.reference.store.load`'s.
    """
    references = [load(folder, name, design) for name in workloads]
    compared = dict.fromkeys(" against ".join(row.across) for row in design.findings.values() if row.across)
    both = "".join(f" *both*: judged once, {recipes}." for recipes in compared)
    about_verdicts = textwrap.fill(
        f"The verdict on each finding, and how many of its clauses hold.{both} One seed is judged by the sign of a "
        "difference, without a test.",
        WIDTH,
    )
    parts = [f"# kvbench: {escape(', '.join(workloads))}", "## Verdicts", about_verdicts, _verdicts(references, design)]
    for reference in references:
        facts = {**reference.provenance, "workload": reference.workload}
        parts += [f"## {escape(reference.workload)}", about(reference.histories, design, facts)]
        parts.append(tables(reference.histories, design))
    return "\n\n".join(parts) + "\n"


def _verdicts(references: Sequence[Reference], design: Design) -> str:
    judged = [{(j.finding.id, j.recipe): j for j in reference.judgements} for reference in references]
    rows = []
    for finding in design.findings.values():
        for recipe in design.scopes(finding):
            found = [judgements.get((finding.id, recipe)) for judgements in judged]
            cells = [f"{j.verdict} {j.held.replace(' of ', '/')}" if j else "-" for j in found]
            rows.append([finding.id, "both" if finding.across else recipe, *cells])
    return markdown_table(["finding", "recipe", *(reference.workload for reference in references)], rows)
