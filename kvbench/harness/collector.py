"""The ledger of a session: what its tests left, compared, judged and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.findings import registry as findings
from kvbench.harness.outcome import Outcome
from kvbench.harness.summary import remarks
from kvbench.reference import store as reference
from kvbench.reference import update as updating
from kvbench.reference.compare import compare
from kvbench.reference.timing import Timing, timings
from kvbench.reference.verdicts import verdict_changes
from kvbench.reporting import report
from kvbench.results import history, saved
from kvbench.utils.environment import FACTS
from kvbench.utils.errors import UserError
from kvbench.utils.files import write_whole

if TYPE_CHECKING:
    import pandas as pd


class Collector:
    """Collects the records of all trainings, in this process or in workers, compares and judges them.

    Args:
        workload: its name.
        seeds: those of every training.
        expected: the folder of references.
        report_path: where the tables go.
        run: the command that runs this again, for messages.
        recorded_run: the same without this machine's paths, for provenance.
        names: gives all configurations there are, in the order of the tables.
        update: write references instead of comparing with them.
    """

    def __init__(
        self,
        workload: str,
        seeds: tuple[int, ...],
        expected: Path,
        report_path: Path,
        run: str,
        recorded_run: str,
        names: Callable[[], Sequence[str]],
        *,
        update: bool,
    ):
        self.workload, self.seeds, self.expected = workload, seeds, expected
        self.report_path, self.names, self.update = report_path, names, update
        self.run, self.recorded_run = run, recorded_run
        self.seen: dict[str, str] = {}  # id of a configuration or finding -> how its test ended
        self.records: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []  # tests that failed
        self.noted: list[str] = []  # changes of verdicts that were recorded as undecided
        self.repeated = 0  # clauses that stand because their recorded seeds came out the same
        self.reasons: list[str] = []  # why the session fails beyond its failed tests
        self.summary = ""
        self._result = "incomplete"
        self._judged: tuple[dict[str, int], list[findings.Judgement]] = ({}, [])

    @cached_property
    def reference(self) -> reference.Reference:
        """The workload's reference; raises `UserError` where there is none."""
        return reference.load(self.expected, self.workload, self.run)

    def absorb(self, seen: Mapping[str, Any], test: str, when: str, outcome: str) -> None:
        """Take in how a test went, in this process or in a worker; ``seen`` holds its configuration and record."""
        name = seen["configuration"] or seen["finding"]
        if when == "call" or outcome != "passed":
            self.seen[name] = outcome
        if outcome == "failed":
            self.failures.append(test)
        if seen["record"]:
            self.records[name] = seen["record"]

    @property
    def histories(self) -> pd.DataFrame:
        """All histories so far, in the order of the table of configurations."""
        return history.frame(row for record in self.ordered() for row in record["history"])

    @property
    def whole_histories(self) -> pd.DataFrame:
        """Those of trainings that ended: a finding must not be judged at the epoch at which one diverged."""
        return history.frame(row for record in self.ordered() if ended(record) for row in record["history"])

    def judgements(self) -> list[findings.Judgement]:
        """All findings judged on the trainings that ended; judged again only when another one has."""
        whole = {name: len(record["history"]) for name, record in self.records.items() if ended(record)}
        if self._judged[0] != whole:
            self._judged = whole, findings.judge(self.whole_histories, self.costs)
        return self._judged[1]

    def ordered(self) -> list[dict[str, Any]]:
        """The records so far, in the order of the table of configurations."""
        order = {name: place for place, name in enumerate(self.names())}
        return [self.records[name] for name in sorted(self.records, key=lambda name: order.get(name, len(order)))]

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs per sample of each configuration."""
        return {name: record["flops_per_sample"] for name, record in self.records.items()}

    def compare(
        self, fresh: pd.DataFrame, configuration: str, fingerprints: Mapping[str, Any], rng_fingerprint: str
    ) -> Outcome:
        """Compare a configuration's fresh histories with the reference; raises `UserError` where there is none."""
        if self.update:
            return Outcome()  # the session fails at its end, when the references are written
        made = compare(self.reference, fresh, configuration, fingerprints, self.seeds, rng_fingerprint)
        return Outcome(made.describe(), failed=made.failed, unsettled=not made.judged, moved=made.drifted)

    def check_finding(self, name: str) -> Outcome:
        """Judge a finding on the histories so far and compare its verdict with the recorded one."""
        finding = findings.finding(name)
        histories = self.whole_histories
        lacking = findings.missing(finding, histories)
        # all of them, as they share the error; this one is told
        judged = [j for j in self.judgements() if j.finding is finding]
        if not judged:
            missing = "; ".join(f"{recipe}: {', '.join(names)}" for recipe, names in lacking.items())
            return Outcome(f"lacks whole trainings of {missing}", lacking=True)
        if self.update:
            return Outcome()
        text = "\n".join(judgement.describe() for judgement in judged)
        changes = verdict_changes(self.reference, judged, list(self.records))
        self.repeated += sum(change.repeated for change in changes)
        changes = [change for change in changes if not change.repeated]
        self.noted += [change.describe() for change in changes if not (change.failed or change.unconfirmed)]
        told = [change.describe() for change in sorted(changes, key=lambda change: not change.failed)]
        return Outcome(
            "\n".join([*told, "", text]),
            failed=any(change.failed for change in changes),
            unsettled=any(change.unconfirmed for change in changes),
        )

    def finish(self, *, tests_failed: bool) -> None:
        """End the session: judge what no test judged, update references, make the report."""
        self._judge_rest()
        full = len(self.records) == len(self.names())
        if full and not self.update:
            self._find_absent()
        if self.update and self.records:
            self._update(tests_failed=tests_failed, full=full)
        missing = self._missing()
        self._result = "failed" if tests_failed or self.reasons else "incomplete" if missing else "passed"
        lines = []
        if any(record["history"] for record in self.records.values()):
            try:
                with write_whole(self.report_path) as aside:
                    aside.write_text(self._markdown(clauses=True), encoding="utf-8")
            except UserError as error:
                self.reasons.append(f"FAILED: {error}")
            lines = [self._markdown(clauses=False), f"Tables, with every clause of the verdicts: {self.report_path}"]
        lines += remarks(self, missing)
        self.summary = "\n".join(lines)

    def _missing(self) -> list[str]:
        """The configurations and findings that nothing was compared with."""
        compared = {name for name, record in self.records.items() if record["compared"]}
        judged = {name for name, outcome in self.seen.items() if outcome in {"passed", "failed", "xfailed", "judged"}}
        unjudged = {name for name in compared if self.seen.get(name) == "xfailed"}  # one reference seed, say
        told = (compared - unjudged) | (judged & findings.FINDINGS.keys())
        return [name for name in [*self.names(), *findings.FINDINGS] if name not in told]

    def _judge_rest(self) -> None:
        """Findings whose tests were skipped (by ``--benchmark-only``, in xdist's workers) are judged all the same."""
        for name in findings.FINDINGS:
            if self.seen.get(name) != "skipped":
                continue
            try:
                outcome = self.check_finding(name)
            except UserError as error:
                outcome = Outcome(str(error), failed=True)
            if not outcome.lacking:
                self.seen[name] = "xfailed" if outcome.unsettled else "judged"
            if outcome.failed:
                self.reasons.append(f"FAILED at the end of the session: {outcome.text}")

    def _find_absent(self) -> None:
        """A recorded configuration that no student makes any longer is a failure of a full run."""
        try:
            self.reasons += [f"FAILED: {text}" for text in self.reference.absent(list(self.records))]
        except UserError as error:
            self.reasons.append(f"FAILED: {error}")

    def _update(self, *, tests_failed: bool, full: bool) -> None:
        if tests_failed:
            self.reasons.append("References NOT updated: a test failed.")
            return
        first = self.ordered()[0]
        counted = self.seeds == tuple(range(len(self.seeds)))
        seeds = str(len(self.seeds)) if counted else f"{self.seeds[0]}:{self.seeds[-1] + 1}"
        provenance = {
            "command": f"{self.recorded_run} --kvbench-seeds {seeds} {reference.UPDATE}",
            **{key: first[key] for key in ("fingerprints", *FACTS)},
            "flops_per_sample": self.costs,
        }
        try:
            replicates = history.frame(row for record in self.ordered() for row in record["replicate_history"])
            told = updating.update(
                self.expected, self.workload, self.histories, provenance, full=full, replicates=replicates
            )
        except UserError as error:
            self.reasons.append(f"References NOT updated: {error}")
        else:
            self.reasons.append(f"This run fails by design, as it updates references. {told}")

    def _markdown(self, *, clauses: bool) -> str:
        first = self.ordered()[0]
        facts = {"workload": self.workload, **{key: first[key] for key in FACTS}}
        facts |= {"resumed": told} if (told := saved.reused(self.ordered())) else {}
        judged = self.judgements()
        try:
            recorded = [] if self.update else self.reference.judgements
        except UserError:
            recorded = []
        return report.report(self.histories, judged, facts, self.outcome(), self._timings(), recorded, clauses=clauses)

    def _timings(self) -> list[Timing]:
        """Seconds against the reference's, where it was made on the same kind of device."""
        try:
            recorded, here = self.reference.provenance.get("hardware", ""), self.ordered()[0]["hardware"]
        except UserError:
            return []
        same = str(recorded).partition(",")[0] == str(here).partition(",")[0]
        return timings(self.histories, self.reference.histories) if same else []

    def outcome(self, benchmarks: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """How the session went, for the saved benchmark: a failed run must not become a baseline unnoticed.

        pytest-benchmark leaves out of ``benchmarks`` what ended in an error; its records are saved here.
        """
        there = {benchmark["extra_info"].get(saved.KEY, {}).get("configuration") for benchmark in benchmarks}
        lost = [record for name, record in self.records.items() if there and name not in there]
        return {
            "workload": self.workload,
            "outcome": self._result,
            "reasons": [*self.failures, *self.reasons],
            **({saved.BROKEN_OFF: lost} if lost else {}),
        }


def ended(record: Mapping[str, Any]) -> bool:
    """Whether a training was trained to its end."""
    return len(record["history"]) == len(record["seeds"]) * int(record["recipe"]["epochs"])
