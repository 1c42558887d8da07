"""What a session's end says on one screen, while tables and clauses go to the report.

All of it describes a `kvbench.harness.result.Result`; nothing here can change it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.harness.ci import STEP, add_summary
from kvbench.harness.collector import Collector, histories
from kvbench.harness.options import FRESH
from kvbench.harness.result import Result
from kvbench.reference import store
from kvbench.reference.diagnosis import diagnose
from kvbench.reference.standing import standings
from kvbench.reference.status import Status
from kvbench.reporting.contents import Contents
from kvbench.reporting.screen import Line, verdict_lines
from kvbench.results import history, saved
from kvbench.results.saved import Outcome
from kvbench.utils.environment import FACTS
from kvbench.utils.environment_diff import differences
from kvbench.utils.errors import best_effort, shorten
from kvbench.utils.files import write_text
from kvbench.utils.text import fold, item, number, plain

if TYPE_CHECKING:
    from kvbench.findings.judge import Judgement

VERDICTS = 20  # lines; each test that failed, of which pytest prints as much, takes two of them


def summarize(
    collector: Collector, result: Result, path: Path, html: Path | None = None, *, verbose: bool = False
) -> list[Line]:
    """Write the report to ``path`` and the page to ``html``, and return the lines that the terminal shows.

    ``verbose`` shows the report there as well.
    """
    contents = functools.cache(functools.partial(_contents, collector))  # made once, where it can be made
    lines: list[Line] = []
    written = []
    if any(record["history"] for record in collector.records):
        with best_effort(f"write the report to {path}"):
            text = contents().markdown()
            if verbose:
                lines += [Line(line) for line in plain(text).split("\n")]
            write_text(path, text)
            written.append(f"Report, with all tables and clauses: {_near(path)}")
        if html is not None:
            with best_effort(f"write the page to {html}"):
                from kvbench.reporting.html import page  # a template's engine, which most sessions do without

                write_text(html, page(contents()))
                written.append(f"The same with figures: {_near(html)}")
    remarks: tuple[Callable[[Collector, Result], Iterator[Line]], ...] = (
        _curves, _verdicts, _not_compared, _where_to_look, _not_confirmed, _reused, _notes, _environment, _seconds
    )  # fmt: skip
    listed = []
    for remark in remarks:
        with best_effort(f"complete the summary ({remark.__name__.strip('_')})"):
            found = list(remark(collector, result))
            lines += [line._replace(text=fold(plain(line.text))) for line in found]
            listed += [line.text for line in found if remark is not _verdicts]
    if step := os.environ.get(STEP):
        with best_effort(f"write the summary of the step to {step}"):
            add_summary(Path(step), "\n".join([contents().markdown(clauses=False), *map(item, listed)]))
    # A path is told whole, in a line of its own.
    return [*lines, *(Line(plain(text)) for text in written)]


def _near(path: Path) -> Path:
    """A path from the current directory, where it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
    return None if collector.update or collector.lacking else collector.reference


def _curves(collector: Collector, result: Result) -> Iterator[Line]:
    """How many configurations are where the reference has them."""
    trained = {record["configuration"] for record in collector.records}
    compared = [result.checks[name] for name in collector.design.names if name in result.checks and name in trained]
    reference = _reference(collector)
    if not compared or reference is None:
        return
    good = sum(check.outcome is Outcome.PASSED for check in compared)
    recorded = history.seeds(reference.histories)
    mine = len(collector.seeds)
    known = len({*collector.seeds} & {*recorded})
    which = f"{mine} of the reference's {len(recorded)} seeds"
    if known < mine:
        which = f"{mine} {f'seeds, {mine - known} of them' if known else 'seeds,'} new, against {len(recorded)}"
    text = f"Curves: {good} of {len(compared)} configurations are as recorded ({which})."
    yield Line(text, None if good == len(compared) else Status.DRIFTED)


def _verdicts(collector: Collector, result: Result) -> Iterator[Line]:
    """A line a finding and recipe."""
    reference, judged = _reference(collector), collector.judgements()
    if not judged:
        return
    stood = standings(reference, judged, collector.changes() if reference else [])
    if reference is not None:
        good = sum(one.status in {Status.RECORDED, Status.NOTED} for one in stood)
        yield Line(f"Findings: {good} of {len(stood)} verdicts are as recorded.")
    if not any(judgement.tested for judgement in judged):
        yield Line("Verdicts are by the sign of a difference: one seed allows no test.")
    failed = len(result.names(Outcome.FAILED)) if reference is not None else 0
    yield Line("")
    yield from verdict_lines(stood, collector.design, max(0, VERDICTS - 2 * failed))
    yield Line("")


def _not_compared(collector: Collector, result: Result) -> Iterator[Line]:
    if not collector.update and result.not_compared:
        yield Line(f"NOT COMPARED with the reference: {shorten(result.not_compared)}.")


def _where_to_look(collector: Collector, result: Result) -> Iterator[Line]:
    left = {name: check.metrics for name, check in result.checks.items() if check.metrics}
    compared = [record["configuration"] for record in collector.records]
    compared = [name for name in compared if name not in result.not_compared]
    if left:
        yield Line(f"WHERE TO LOOK: {diagnose(left, compared, collector.design)}", Status.DRIFTED)
    reference = _reference(collector)
    if reference is not None and result.names(Outcome.FAILED):
        yield Line(f"If this change is meant to be: {reference.update_command}")
        yield Line("All numbers of what failed are in the report, and here with -v.")


def _not_confirmed(collector: Collector, result: Result) -> Iterator[Line]:
    names = result.names(Outcome.NOT_CONFIRMED)
    if names:
        count = len(collector.seeds)
        more = f"{collector.run} --kvbench-seeds {max(store.SEEDS, 2 * count)}"
        text = f"NOT CONFIRMED by {count} seeds: {shorten(names)}. Why: -rx. More seeds: {more}"
        yield Line(text, Status.NOT_CONFIRMED)


def _reused(collector: Collector, _: Result) -> Iterator[Line]:
    if reused := saved.reused(collector.records):
        again = f"{collector.run} {FRESH}"
        yield Line(f"REUSED: {reused}; an earlier run trained them. Train them anew: {again}")


def _notes(collector: Collector, result: Result) -> Iterator[Line]:
    for text in sorted(filter(None, {record.get("notes", "") for record in collector.records})):
        yield Line(f"DATA: {text}")
    states = [note for record in collector.records for note in record["state_notes"]]
    for text in (*(note for check in result.checks.values() for note in check.notes), *states):
        yield Line(f"NOTED: {text}")


def _environment(collector: Collector, _: Result) -> Iterator[Line]:
    recorded = _reference(collector)
    records: list[Any] = collector.records
    other = differences(recorded.provenance, records[0]) if recorded and records else []
    if other:
        yield Line(f"NOTED: not as where the reference was made, so numbers may differ: {'; '.join(other)}.")


def _seconds(collector: Collector, _: Result) -> Iterator[Line]:
    """The fastest and the slowest configuration."""
    timed = histories(collector.records).groupby("configuration")["seconds"].median().dropna()
    if ends := sorted((float(seconds), str(name)) for name, seconds in timed.items()):
        shown = [f"{number(seconds, '.3g')} ({name})" for seconds, name in dict.fromkeys((ends[0], ends[-1]))]
        yield Line(f"Seconds an epoch of a seed: {' to '.join(shown)}.")
