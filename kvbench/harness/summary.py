"""What a session's summary says below the tables, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.harness.options import FRESH
from kvbench.reference import store as reference
from kvbench.reference.diagnosis import diagnose
from kvbench.results import history, saved
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import UserError

if TYPE_CHECKING:
    from kvbench.harness.collector import Collector


def remarks(collector: Collector, missing: Sequence[str]) -> list[str]:
    """The lines for a session that ends; ``missing``: what nothing was compared with."""
    lines = []
    if missing and not collector.update:
        lines.append(f"NOT COMPARED with the reference: {', '.join(missing)}.")
    moved = {name: record["moved"] for name, record in collector.records.items() if record["moved"]}
    if moved:
        lines.append(
            f"WHERE TO LOOK: {diagnose(moved, [n for n, record in collector.records.items() if record['compared']])}"
        )
    if unsettled := [name for name, outcome in collector.seen.items() if outcome == "xfailed"]:
        more = f"{collector.run} --kvbench-seeds {max(reference.SEEDS, 2 * len(collector.seeds))}"
        few = f"NOT SETTLED with {len(collector.seeds)} seeds: {', '.join(unsettled)}."
        lines.append(f"{few} Why: -rx. More seeds: {more}")
    if told := saved.reused(collector.ordered()):
        lines.append(f"REUSED: {told}; an interrupted run trained them. Train them anew: {collector.run} {FRESH}")
    if collector.repeated:
        recorded = len(history.seeds(collector.reference.histories))
        lines.append(
            f"REPEATED: {collector.repeated} clauses that {len(collector.seeds)} seeds alone cannot decide. They are"
            f" recorded seeds, and each came out as it did: the verdicts of all {recorded} recorded seeds stand."
        )
    notes = {record["notes"] for record in collector.records.values() if record["notes"]}
    lines += [f"DATA: {text}" for text in sorted(notes)]
    lines += [
        f"NOTED: {text}" for text in (*collector.noted, *(n for r in collector.ordered() for n in r["state_notes"]))
    ]
    if surroundings := _surroundings(collector):
        lines.append(f"NOTED: not as where the reference was made, so numbers may differ: {'; '.join(surroundings)}.")
    return lines


def _surroundings(collector: Collector) -> list[str]:
    records = collector.ordered()
    try:
        recorded = {} if collector.update else collector.reference.provenance
    except UserError:
        recorded = {}
    return differences(recorded, records[0]) if records else []
