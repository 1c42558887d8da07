"""What a session's end says: the tables, and below them what was not compared, what drifted, what was reused.

All of it describes a `kvbench.harness.result.Result`; nothing here can change it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.harness.ci import STEP, add_summary
from kvbench.harness.collector import Collector, histories
from kvbench.harness.options import FRESH
from kvbench.harness.result import Result, State
from kvbench.reference import store
from kvbench.reference.diagnosis import diagnose
from kvbench.reporting.contents import Contents
from kvbench.results import history, saved
from kvbench.utils.environment import FACTS
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import UserError, best_effort
from kvbench.utils.files import atomic_write
from kvbench.utils.text import item

if TYPE_CHECKING:
    from kvbench.findings.judge import Judgement


def summarize(collector: Collector, result: Result, path: Path, html: Path | None = None) -> str:
    """Write the tables to ``path`` and the page to ``html``, and return what the terminal shows."""
    parts = []
    if any(record["history"] for record in collector.records):
        with best_effort("make the tables"):
            parts.append(_contents(collector).markdown(clauses=False))
        with best_effort(f"write the tables to {path}"):
            _write(path, _contents(collector).markdown())
            parts.append(f"Tables, with every clause of the verdicts: {path}")
        if html is not None:
            with best_effort(f"write the page to {html}"):
                from kvbench.reporting.html import page  # a template's engine, which most sessions do without

                _write(html, page(_contents(collector)))
                parts.append(f"The same with figures: {html}")
    tables = len(parts)
    remarks: tuple[Callable[[Collector, Result], list[str]], ...] = (
        _not_compared, _where_to_look, _not_settled, _reused, _repeated, _notes, _environment
    )  # fmt: skip
    for remark in remarks:
        with best_effort(f"complete the summary ({remark.__name__.strip('_')})"):
            parts += remark(collector, result)
    if step := os.environ.get(STEP):
        with best_effort(f"write the summary of the step to {step}"):
            listed = "\n".join(map(item, parts[tables:]))
            add_summary(Path(step), f"{_contents(collector).markdown(clauses=False)}\n{listed}")
    return "\n".join(parts)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def _contents(collector: Collector) -> Contents:
    records = collector.records
    known = (*FACTS, "fingerprints", "seeds")
    facts = {"workload": collector.workload, **{key: records[0][key] for key in known if key in records[0]}}
    if resumed := saved.reused(records):
        facts["resumed"] = resumed
    judged: list[Judgement] = []
    with best_effort("judge the findings"):
        judged = collector.judgements()
    frame, reference = histories(records), _reference(collector)
    return Contents(frame, collector.design, judged, facts, collector.costs, collector.outcome, reference)


def _reference(collector: Collector) -> store.Reference | None:
    """The reference that the run is held against, if there is one: that there is none is a failure told elsewhere."""
    try:
        return None if collector.update else collector.reference
    except UserError:
        return None


def _not_compared(collector: Collector, result: Result) -> list[str]:
    if collector.update or not result.not_compared:
        return []
    return [f"NOT COMPARED with the reference: {', '.join(result.not_compared)}."]


def _where_to_look(collector: Collector, result: Result) -> list[str]:
    left = {name: check.metrics for name, check in result.checks.items() if check.metrics}
    compared = [record["configuration"] for record in collector.records]
    compared = [name for name in compared if name not in result.not_compared]
    return [f"WHERE TO LOOK: {diagnose(left, compared, collector.design)}"] if left else []


def _not_settled(collector: Collector, result: Result) -> list[str]:
    unsettled = result.names(State.UNSETTLED)
    if not unsettled:
        return []
    count = len(collector.seeds)
    more = f"{collector.run} --kvbench-seeds {max(store.SEEDS, 2 * count)}"
    return [f"NOT SETTLED with {count} seeds: {', '.join(unsettled)}. Why: -rx. More seeds: {more}"]


def _reused(collector: Collector, _: Result) -> list[str]:
    reused = saved.reused(collector.records)
    again = f"{collector.run} {FRESH}"
    return [f"REUSED: {reused}; an earlier run trained them. Train them anew: {again}"] if reused else []


def _repeated(collector: Collector, result: Result) -> list[str]:
    repeated = sum(check.repeated for check in result.checks.values())
    if not repeated:
        return []
    recorded = len(history.seeds(collector.reference.histories))
    return [
        f"REPEATED: {repeated} clauses that {len(collector.seeds)} seeds alone cannot decide. They are recorded seeds,"
        f" and each came out as it did: the verdicts of all {recorded} recorded seeds stand."
    ]


def _notes(collector: Collector, result: Result) -> list[str]:
    data = sorted(filter(None, {record.get("notes", "") for record in collector.records}))
    notes = [note for check in result.checks.values() for note in check.notes]
    states = [note for record in collector.records for note in record["state_notes"]]
    return [*(f"DATA: {text}" for text in data), *(f"NOTED: {text}" for text in (*notes, *states))]


def _environment(collector: Collector, _: Result) -> list[str]:
    recorded = _reference(collector)
    records: list[Any] = collector.records
    other = differences(recorded.provenance, records[0]) if recorded and records else []
    return [f"NOTED: not as where the reference was made, so numbers may differ: {'; '.join(other)}."] if other else []
