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
    from kvbench.harness.collector import Ledger


def remarks(ledger: Ledger, missing: Sequence[str]) -> list[str]:
    """The lines for a session that ends; ``missing``: what nothing was compared with."""
    lines = []
    if missing and not ledger.update:
        lines.append(f"NOT COMPARED with the reference: {', '.join(missing)}.")
    moved = {name: record["moved"] for name, record in ledger.records.items() if record["moved"]}
    if moved:
        lines.append(
            f"WHERE TO LOOK: {diagnose(moved, [n for n, record in ledger.records.items() if record['compared']])}"
        )
    if unsettled := [name for name, outcome in ledger.seen.items() if outcome == "xfailed"]:
        more = f"{ledger.run} --kvbench-seeds {max(reference.SEEDS, 2 * len(ledger.seeds))}"
        few = f"NOT SETTLED with {len(ledger.seeds)} seeds: {', '.join(unsettled)}."
        lines.append(f"{few} Why: -rx. More seeds: {more}")
    if told := saved.reused(ledger.ordered()):
        lines.append(f"REUSED: {told}; an interrupted run trained them. Train them anew: {ledger.run} {FRESH}")
    if ledger.repeated:
        recorded = len(history.seeds(ledger.reference.histories))
        lines.append(
            f"REPEATED: {ledger.repeated} clauses that {len(ledger.seeds)} seeds alone cannot decide. They are recorded"
            f" seeds, and each came out as it did: the verdicts of all {recorded} recorded seeds stand."
        )
    notes = {record["notes"] for record in ledger.records.values() if record["notes"]}
    lines += [f"DATA: {text}" for text in sorted(notes)]
    lines += [f"NOTED: {text}" for text in (*ledger.noted, *(n for r in ledger.ordered() for n in r["state_notes"]))]
    if surroundings := _surroundings(ledger):
        lines.append(f"NOTED: not as where the reference was made, so numbers may differ: {'; '.join(surroundings)}.")
    return lines


def _surroundings(ledger: Ledger) -> list[str]:
    records = ledger.ordered()
    try:
        recorded = {} if ledger.update else ledger.reference.provenance
    except UserError:
        recorded = {}
    return differences(recorded, records[0]) if records else []
