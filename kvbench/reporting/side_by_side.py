"""Several references beside each other, to see whether what holds on one workload holds on another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kvbench.findings.design import Design
from kvbench.findings.judge import Judgement
from kvbench.reference.store import Reference, load
from kvbench.reporting.report import about, tables
from kvbench.reporting.table import Table
from kvbench.utils.text import WIDTH, escape

LACKS = "-"  # in place of a verdict


@dataclass(frozen=True)
class SideBySide:
    """References of one design, beside each other.

    Example:
        >>> from kvbench.studies.kv_memory import STUDY
        >>> both = side_by_side(Path("expected"), ["imagenet", "fractals"], STUDY.design)
        >>> both.verdicts.rows[0]
        ['simple-converges-faster', 'StepLR', 'holds 2/2', 'holds 2/2']
    """

    references: Sequence[Reference]
    design: Design

    @property
    def title(self) -> str:
        """The workloads."""
        return ", ".join(reference.workload for reference in self.references)

    @property
    def reading(self) -> str:
        """How to read `verdicts`, in markdown."""
        compared = dict.fromkeys(" against ".join(row.across) for row in self.design.findings.values() if row.across)
        both = "".join(f" *both*: judged once, {recipes}." for recipes in compared)
        return (
            f"The verdict on each finding, and how many of its clauses hold.{both} One seed is judged by the sign of a"
            " difference, without a test."
        )

    @cached_property
    def judgements(self) -> list[tuple[str, str, list[Judgement | None]]]:
        """Finding and recipe, with the judgement in each reference: None where it lacks what the finding needs."""
        judged = [{(j.finding.id, j.recipe): j for j in reference.judgements} for reference in self.references]
        return [
            (finding.id, "both" if finding.across else recipe, [one.get((finding.id, recipe)) for one in judged])
            for finding in self.design.findings.values()
            for recipe in self.design.scopes(finding)
        ]

    @property
    def verdicts(self) -> Table:
        """A row for each finding and recipe, a column for each reference."""
        rows = [[finding, recipe, *map(cell, found)] for finding, recipe, found in self.judgements]
        return Table(["finding", "recipe", *(reference.workload for reference in self.references)], rows)

    def markdown(self) -> str:
        """All verdicts; then where each reference's numbers come from, and its two tables."""
        reading = textwrap.fill(self.reading, WIDTH)
        parts = [f"# kvbench: {escape(self.title)}", "## Verdicts", reading, self.verdicts.markdown()]
        for reference in self.references:
            facts = {**reference.provenance, "workload": reference.workload}
            parts += [f"## {escape(reference.workload)}", about(reference.histories, self.design, facts)]
            parts.append(tables(reference.histories, self.design))
        return "\n\n".join(parts) + "\n"


def cell(judgement: Judgement | None) -> str:
    """A verdict with the count of its clauses: ``mixed 7/8``."""
    return f"{judgement.verdict} {judgement.held.replace(' of ', '/')}" if judgement else LACKS


def side_by_side(folder: Path, workloads: Sequence[str], design: Design) -> SideBySide:
    """Load the references of several workloads from ``folder``.

    Raises:
        UserError: `kvbench.reference.store.load`'s.
    """
    return SideBySide([load(folder, name, design) for name in workloads], design)
