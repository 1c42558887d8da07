"""All that a report shows, from a run, a saved run or a reference: markdown and the page are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.findings.design import Design
from kvbench.findings.judge import Judgement, judge
from kvbench.reference.changes import verdict_changes
from kvbench.reference.compare import Comparison, compare
from kvbench.reference.standing import Standing, standings
from kvbench.reference.store import Reference, load
from kvbench.reference.timing import Timing, timings
from kvbench.reporting import report
from kvbench.reporting.figures import Figure, Numbers, figures, time_table
from kvbench.reporting.table import Table
from kvbench.results import history
from kvbench.results.saved import Saved
from kvbench.utils.errors import UserError, best_effort, unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Contents:
    """All that a report shows, of a run or of a reference.

    Args:
        histories: a history frame.
        design: the study's.
        judgements: what `kvbench.findings.judge.judge` says about it.
        facts: where the numbers come from, as `kvbench.reporting.report.report` takes them, with ``fingerprints``,
            ``seeds`` and ``random_numbers`` where they are known.
        costs: FLOPs per sample of each configuration, where they are known.
        outcome: of a run, likewise; None for a reference.
        reference: what the run is held against; None: nothing, or this is one.
        lacking: why there is no reference, in a sentence.
    """

    histories: pd.DataFrame
    design: Design
    judgements: Sequence[Judgement]
    facts: Mapping[str, Any]
    costs: Mapping[str, float] = field(default_factory=dict)
    outcome: Mapping[str, Any] | None = None
    reference: Reference | None = None
    lacking: str = ""

    @cached_property
    def timings(self) -> list[Timing]:
        """Seconds against the reference's, where it was made on the same kind of device."""
        if self.reference is not None and _kind(self.reference.provenance) == _kind(self.facts):
            with best_effort("compare seconds with the reference's"):
                return timings(self.histories, self.reference.histories)
        return []

    @cached_property
    def standings(self) -> list[Standing]:
        """The judgements beside the recorded verdicts; none where there is no reference."""
        if self.reference is not None and self.judgements:
            with best_effort("compare verdicts with the recorded ones"):
                return standings(self.reference, self.judgements, verdict_changes(self.reference, self.judgements))
        return []

    @property
    def stood(self) -> list[Standing]:
        """The same, also where there is nothing to compare with."""
        return self.standings or standings(None, self.judgements, ())

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Each configuration against the reference, in the order of the histories; none where there is none."""
        return self.compared(history.configurations(self.histories))

    def compared(self, names: Sequence[str]) -> list[Comparison]:
        """Some configurations against the reference."""
        if self.reference is None:
            return []
        drawn_here = str(self.facts.get("random_numbers", ""))
        return [compare(self.reference, self.histories, name, self.fingerprints, self.seeds, drawn_here)
                for name in names]  # fmt: skip

    @property
    def fingerprints(self) -> Mapping[str, Any]:
        """What the run was made from; empty if not known."""
        known = self.facts.get("fingerprints")
        return known if isinstance(known, Mapping) else {}

    @property
    def seeds(self) -> list[int] | None:
        """Those that the run was to train; None if not known."""
        known = self.facts.get("seeds")
        usable = isinstance(known, list) and known and all(type(seed) is int for seed in known)
        return known if usable else None

    @cached_property
    def numbers(self) -> Numbers:
        """What figures are made of."""
        if self.reference is None:
            return Numbers(self.histories, self.design, self.costs)
        mine, theirs = (str(facts.get("hardware", "unknown")) for facts in (self.facts, self.reference.provenance))
        elsewhere = theirs if theirs != mine else ""
        return Numbers(self.histories, self.design, self.costs, self.reference.histories, elsewhere=elsewhere)

    @cached_property
    def figures(self) -> list[Figure]:
        """Every figure for which there are numbers."""
        return figures(self.numbers)

    @cached_property
    def tables(self) -> dict[str, tuple[str, Table]]:
        """Title and cells of every table of the page's section of tables for which there are numbers, by its name."""
        found = {"verdicts": ("Verdicts", report.verdict_table(self.judgements, self.standings))}
        for metric in sorted(report.TITLES, key=lambda name: name not in report.SHOWN):
            if self.histories[metric].notna().any():
                table = report.metric_table(self.histories, self.design, metric)
                found[metric] = report.TITLES[metric], table
        found["time"] = "Time to target, mean over seeds (lowest to highest)", time_table(self.figures)
        found["seconds"] = "Seconds per training epoch", report.seconds_table(self.histories, self.design, self.timings)
        return {name: (title, table) for name, (title, table) in found.items() if table.rows}

    def table(self, name: str) -> Table:
        """One of `tables`, ``clauses`` or ``tolerances``; raises `UserError` naming them."""
        found = {known: table for known, (_, table) in self.tables.items()}
        if name not in found:  # comparing takes longer than any table
            found["clauses"] = report.every_clause(self.judgements)
            found["tolerances"] = report.tolerance_table(self.comparisons)
        known = [one for one, table in found.items() if table.rows]
        if name in {*report.TITLES, *found} - {*known}:
            why = f" {self.lacking}" if name == "tolerances" and self.lacking else ""
            raise UserError(f"There is nothing for the table {name} here; there is for {', '.join(known)}.{why}")
        if name not in known:
            raise unknown("table", name, known)
        return found[name]

    def markdown(self, *, clauses: bool = True) -> str:
        """The report in markdown; ``clauses`` shows every clause of every finding."""
        return report.report(self.histories, self.design, self.judgements, self.facts, self.outcome, self.timings,
                             self.standings, self.comparisons, clauses=clauses)  # fmt: skip

    def finding(self, name: str) -> str:
        """One finding with all its clauses, in plain text; raises `UserError` where there is no such finding."""
        return report.one_finding(name, self.judgements, self.histories, self.design)


def of_saved(saved: Saved, design: Design, folder: Path) -> Contents:
    """The contents of a saved run's report, judged afresh, with its reference from ``folder`` where there is one."""
    facts = {**saved.info, "workload": saved.workload}
    outcome = {"outcome": saved.outcome, "reasons": saved.reasons}
    reference, lacking = None, ""
    try:
        reference = load(folder, saved.workload, design)
    except UserError as error:
        lacking = str(error)
    judgements = judge(saved.histories, design, saved.costs)
    return Contents(saved.histories, design, judgements, facts, saved.costs, outcome, reference, lacking)


def of_expected(folder: Path, workload: str, design: Design) -> Contents:
    """The contents of the report on the reference in ``<folder>/<workload>/``.

    Raises:
        UserError: `kvbench.reference.store.load`'s.
    """
    reference = load(folder, workload, design)
    facts = {**reference.provenance, "workload": workload}
    return Contents(reference.histories, design, reference.judgements, facts, reference.costs)


def _kind(facts: Mapping[str, Any]) -> str:
    """The kind of device: on others a configuration's share of the seconds says nothing."""
    return str(facts.get("hardware", "")).partition(",")[0]
