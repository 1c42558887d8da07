"""Collects what the tests of a session leave, in this process or in workers, and compares it with the reference.

The result depends on the set of complete histories at the session's end alone: not on the order of the tests, on how
often one ran, or in which process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.findings.design import Design
from kvbench.findings.judge import Judgement, judge, missing
from kvbench.harness.record import Record, complete, difference, digest
from kvbench.harness.result import Check, Result
from kvbench.reference import store
from kvbench.reference.changes import Change, verdict_changes
from kvbench.reference.compare import compare
from kvbench.reference.drift import Drift
from kvbench.reference.features import compare_features
from kvbench.reference.features import describe as describe_features
from kvbench.reference.probes import compare_probes
from kvbench.reference.probes import describe as describe_probes
from kvbench.reference.together import compare_together
from kvbench.reference.update import update as update_reference
from kvbench.results import history, saved
from kvbench.results.saved import Outcome
from kvbench.utils.environment import FACTS
from kvbench.utils.errors import UserError, describe, shorten

if TYPE_CHECKING:
    import pandas as pd

CLAUSES = 3  # of a finding that changed, where there is room for a few
BY_DESIGN = "This run fails by design, so that no reference changes unnoticed: look at it and commit it."
NOT_UPDATED = "References NOT updated:"
ALONE = "{} has nothing to be compared with: the end says why."
INCOMPLETE = "{} was not trained to its end in this session, so it was not compared."


class Collector:
    """Which configurations and findings a session's tests selected, and the records of what was trained.

    Args:
        workload: its name, and what was chosen for it.
        design: the configurations and findings there are.
        seeds: those of every training.
        expected: the folder of the study's references.
        run: the command that runs this again, for messages.
        recorded_run: the same without this machine's paths, for provenance.
        update: write references instead of comparing with them.
    """

    def __init__(
        self,
        workload: str,
        design: Design,
        seeds: tuple[int, ...],
        expected: Path,
        run: str,
        recorded_run: str,
        *,
        update: bool,
    ):
        self.workload, self.design, self.seeds, self.expected = workload, design, seeds, expected
        self.run, self.recorded_run, self.update = run, recorded_run, update
        self.selected: dict[str, set[str]] = {}  # configuration or finding -> ids of the tests that are to compare it
        self.finished: dict[str, str] = {}  # id of a test -> how it ended
        self.result: Result | None = None  # once the session has ended
        self._records: dict[str, dict[str, Record]] = {}  # configuration -> digest of a history -> its record
        self._checks: dict[str, Check] = {}  # digest of a complete history -> its comparison
        # What was last judged, with the digests of the complete histories that it was judged on.
        self._judged: tuple[frozenset[str] | None, list[Judgement]] = (None, [])
        self._findings: tuple[frozenset[str] | None, dict[str, Check]] = (None, {})

    def select(self, name: str, test: str) -> None:
        """A test is to compare a configuration or to judge a finding."""
        self.selected.setdefault(name, set()).add(test)

    def absorb(self, name: str, test: str, outcome: str, record: Record | None) -> None:
        """Take in how a phase of a test went; ``outcome`` is "" while it has not come to its end."""
        if record:
            self.select(name, test)
            self._records.setdefault(name, {}).setdefault(digest(record), record)
        if outcome and self.finished.get(test) != "failed":
            self.finished[test] = outcome

    @cached_property
    def reference(self) -> store.Reference:
        """The workload's reference; raises `UserError` where there is none."""
        return store.load(self.expected, self.workload, self.design, self.run)

    @cached_property
    def lacking(self) -> str:
        """Why there is no reference to compare with; empty if there is one."""
        try:
            _ = self.reference
        except UserError as error:
            return str(error)
        return ""

    @property
    def records(self) -> list[Record]:
        """One record a configuration, in the order of the tables: its complete one, else the one that came farthest."""
        order = {name: index for index, name in enumerate(self.design.names)}
        names = sorted(self._records, key=lambda name: order.get(name, len(order)))
        return [self._best(name) for name in names]

    def _best(self, name: str) -> Record:
        known = self._records[name]
        return known[max(known, key=lambda key: (complete(known[key]), len(known[key]["history"]), key))]

    @property
    def complete(self) -> list[Record]:
        """The complete records, likewise."""
        return [record for record in self.records if complete(record)]

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs per sample of each configuration, where they are known."""
        known = {record["configuration"]: record.get("flops_per_sample") for record in self.records}
        return {name: flops for name, flops in known.items() if flops is not None}

    @property
    def pending(self) -> bool:
        """Whether a training that findings may need is still to come."""
        trained = {record["configuration"] for record in self.complete}
        return any(
            name not in trained and name not in self.design.findings and not tests <= self.finished.keys()
            for name, tests in self.selected.items()
        )

    @property
    def _known(self) -> frozenset[str]:
        """The complete histories, by their digests."""
        return frozenset(digest(record) for record in self.complete)

    def judgements(self) -> list[Judgement]:
        """All findings judged on all complete histories: they share one error rate, so all are judged together."""
        if self._judged[0] != self._known:
            self._judged = self._known, judge(histories(self.complete), self.design, self.costs)
        return self._judged[1]

    def changes(self) -> list[Change]:
        """How their verdicts differ from the recorded ones; raises `UserError` where there are none."""
        judged = self.judgements()
        trained = [record["configuration"] for record in self.complete]
        return verdict_changes(self.reference, judged, trained) if judged else []

    def check_configuration(self, record: Record) -> Check:
        """Compare a training's history with the reference."""
        if self.update:
            text = INCOMPLETE.format(record["configuration"])
            return Check(Outcome.PASSED) if complete(record) else Check(Outcome.INCOMPLETE, text)
        key = digest(record)
        if key not in self._checks:
            self._checks[key] = self._compare(record)
        return self._checks[key]

    def _compare(self, record: Record) -> Check:
        if self.lacking:
            return Check(Outcome.FAILED, ALONE.format(record["configuration"]), self.lacking)
        try:
            compared = compare(
                self.reference, histories([record]), record["configuration"], record["fingerprints"], self.seeds,
                record["random_numbers"],
            )  # fmt: skip
        except UserError as error:
            return Check(Outcome.FAILED, str(error))
        good = Outcome.PASSED if compared.judged else Outcome.INCOMPLETE
        outcome = Outcome.FAILED if compared.failed else good
        return Check(outcome, compared.brief, compared.describe(), compared.drifted)

    def check_finding(self, name: str) -> Check:
        """Judge a finding on the complete histories and compare its verdict with the recorded one."""
        if self.update:
            return Check(Outcome.PASSED)
        if self._findings[0] != self._known:
            self._findings = self._known, self._check_findings()
        return self._findings[1][name]

    def _check_findings(self) -> dict[str, Check]:
        judged = self.judgements()
        changes: list[Change] = []
        problem = ""
        try:
            changes = [] if self.lacking else self.changes()
        except UserError as error:
            problem = str(error)
        checks = {}
        for name, finding in self.design.findings.items():
            mine = [judgement for judgement in judged if judgement.finding is finding]
            if {judgement.recipe for judgement in mine} < set(self.design.needs(finding)):
                absent = missing(finding, histories(self.complete), self.design)
                needed = "; ".join(f"{recipe}: {', '.join(names)}" for recipe, names in absent.items())
                checks[name] = Check(
                    Outcome.INCOMPLETE,
                    f"{name} was not judged, as the session lacks complete trainings of {needed}."
                    f" Train them in the same session: {self.run}",
                )
            elif self.lacking:
                checks[name] = Check(Outcome.FAILED, ALONE.format(name), self.lacking)
            elif problem:
                checks[name] = Check(Outcome.FAILED, problem)
            else:
                checks[name] = _check_verdict(mine, [change for change in changes if change.finding == name])
        return checks

    def check(self, name: str) -> Check:
        """Compare what was selected under a name, on the complete histories; what raises an error fails."""
        try:
            if name in self.design.findings:
                return self.check_finding(name)
            if name in self._records and complete(self._best(name)):
                return self.check_configuration(self._best(name))
            return Check(Outcome.INCOMPLETE, INCOMPLETE.format(name))
        except Exception as error:  # a finding of the user's own, say
            return Check(Outcome.FAILED, f"{name} could not be compared: {describe(error)}")

    def finish(self, *, tests_failed: bool, interrupted: bool) -> Result:
        """Compare everything that was selected and update references, once the last test has ended.

        Args:
            tests_failed: a test of the session, any project's, failed.
            interrupted: the session ended before its last test.
        """
        everything = [*self.design.names, *self.design.findings]
        checks = {
            name: self.check(name) for name in dict.fromkeys([*everything, *self.selected]) if name in self.selected
        }
        reasons = self._not_repeatable()
        if missing := [name for name, check in checks.items() if check.outcome is Outcome.INCOMPLETE]:
            reasons.append(
                f"FAILED: selected and not compared: {shorten(missing)}. To leave something out, do not select it"
                " (-k, --deselect)."
            )
        failed = any(check.outcome is Outcome.FAILED for check in checks.values())
        full = {*self.design.names} <= {record["configuration"] for record in self.complete}
        recorded = False
        if self.update:
            why = "the session was interrupted" if interrupted else "a test failed" if tests_failed or failed else ""
            why = why or ("not every selected training is complete and repeatable" if reasons else "")
            why = why or ("" if self.complete else "nothing was trained")
            recorded, text = (False, f"{NOT_UPDATED} {why}.") if why else self._update(full=full)
            reasons.append(text)
        elif self.lacking:
            reasons += [f"FAILED: {self.lacking}"] if failed else []
        elif full:
            trained = [record["configuration"] for record in self.records]
            absent = [f"FAILED: {text}" for text in self.reference.absent(trained)]
            reasons += absent or self._together()
        reasons += self._whatever_seeds()
        compared = {name for name, check in checks.items() if check.outcome is not Outcome.INCOMPLETE}
        not_compared = tuple(name for name in everything if name not in compared)
        good = Outcome.INCOMPLETE if not_compared else Outcome.PASSED
        outcome = Outcome.RECORDED if recorded else Outcome.FAILED if tests_failed or failed or reasons else good
        self.result = Result(outcome, checks, not_compared, tuple(reasons))
        return self.result

    def unreported(self) -> dict[str, Check]:
        """Tests that ran and did not fail, though what they select failed or was not compared; with how it came out."""
        assert self.result is not None, "finish comes first"
        return {
            test: replace(check, text=f"FAILED at the end of the session: {check.text}")
            for name, check in self.result.checks.items()
            if check.outcome in {Outcome.FAILED, Outcome.INCOMPLETE}
            if not any(self.finished.get(test) == "failed" for test in self.selected[name])
            for test in sorted(self.selected[name] & self.finished.keys())
        }

    def _not_repeatable(self) -> list[str]:
        """A sentence for each configuration that was trained twice with different results."""
        sentences = []
        for name, known in self._records.items():
            one, *others = sorted(key for key in known if complete(known[key])) or [""]
            if others:
                sentences.append(
                    f"FAILED: {name} is not repeatable: it was trained {len(others) + 1} times in this session, and"
                    f" {difference(known[one], known[others[0]])}."
                )
        return sentences

    def _together(self) -> list[str]:
        """Numbers that all configurations together have elsewhere than the reference, though each is within."""
        try:
            fresh, drawn = histories(self.complete), {record["random_numbers"] for record in self.complete}
            compared = compare_together(self.reference, fresh, drawn.pop() if len(drawn) == 1 else "")
        except UserError:
            return []  # what is wrong, each configuration says itself
        return [f"FAILED: {one.describe()}." for one in compared if one.failed]

    def _whatever_seeds(self) -> list[str]:
        """That students were given other features than the reference's, or compute or learn something else."""
        if self.update or self.lacking:
            return []
        features: list[Drift] = []
        probes: list[Drift] = []
        for record in self.records:
            features += compare_features(self.reference, record.get("projections", {}), record["fingerprints"])
            probes += compare_probes(self.reference, record.get("probes", {}), record["fingerprints"])
        return [f"FAILED: {said}" for said in (describe_features(features), describe_probes(probes)) if said]

    def _update(self, *, full: bool) -> tuple[bool, str]:
        """Write the references; returns whether they were written, and what changed, or why not."""
        records = self.complete
        first = records[0]
        counted = self.seeds == tuple(range(len(self.seeds)))
        seeds = str(len(self.seeds)) if counted else f"{self.seeds[0]}:{self.seeds[-1] + 1}"
        provenance = {
            "command": f"{self.recorded_run} --kvbench-seeds {seeds} {store.UPDATE}",
            **{key: first[key] for key in ("fingerprints", *FACTS) if key in first},
            **{
                kind: {name: one for record in records for name, one in record.get(kind, {}).items()}
                for kind in ("projections", "probes")
            },
            "flops_per_sample": self.costs,
        }
        replicates = history.frame(row for record in records for row in record["replicate_history"])
        try:
            changed = update_reference(
                self.expected,
                self.workload,
                self.design,
                histories(records),
                provenance,
                full=full,
                replicates=replicates,
                seeds=self.seeds,
                epochs=int(first["recipe"]["epochs"]),
            )
        except UserError as error:
            return False, f"{NOT_UPDATED} {error}"
        return True, f"{BY_DESIGN}\n{changed}"

    def save(self, benchmarks: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Put each record into one of its tests' saved benchmarks; returns what the file says of the whole session.

        pytest-benchmark leaves out what ended in an error; such records are part of what is returned.
        """
        checks = self.result.checks if self.result else {}
        left = {}
        for record in self.records:
            check = checks.get(record["configuration"], Check(Outcome.INCOMPLETE))
            compared = check.outcome is Outcome.PASSED or bool(check.metrics)  # what else fails had nothing to compare
            left[record["configuration"]] = {**record, "compared": compared, "drifted": list(check.metrics)}
        for benchmark in benchmarks:
            name = next((name for name in left if benchmark["fullname"] in self.selected[name]), None)
            if name is not None:
                benchmark["extra_info"][saved.KEY] = left.pop(name)
        return self.outcome | ({saved.NOT_TIMED: list(left.values())} if left else {})

    @property
    def outcome(self) -> dict[str, Any]:
        """How the session went, as plain data: a failed run must not become a baseline unnoticed."""
        outcome = self.result.outcome if self.result else Outcome.INCOMPLETE
        reasons = [test for test, ending in self.finished.items() if ending == "failed"]
        if self.result:
            reasons += [*self.unreported(), *self.result.reasons]
        return {"workload": self.workload, "outcome": outcome.value, "reasons": reasons}


def _check_verdict(judged: Sequence[Judgement], changes: Sequence[Change]) -> Check:
    """Conclude from the judgements of one finding and what changed in its recorded verdicts."""
    failed = [change for change in changes if change.failed]
    unconfirmed = [change for change in changes if change.unconfirmed]
    noted = [change for change in changes if not (change.failed or change.unconfirmed)]
    briefs = [change.brief for change in (failed or unconfirmed)]
    more = [f"and {len(briefs) - CLAUSES} more clauses of it"] if len(briefs) > CLAUSES else []
    lines = [change.describe() for change in (*failed, *unconfirmed, *noted)]
    return Check(
        Outcome.FAILED if failed else Outcome.NOT_CONFIRMED if unconfirmed else Outcome.PASSED,
        "\n".join([*briefs[:CLAUSES], *more]),
        "\n".join([*lines, "", *(judgement.describe() for judgement in judged)]),
        notes=tuple(change.brief for change in noted),
    )


def histories(records: Iterable[Record]) -> pd.DataFrame:
    """The histories of records, as one frame."""
    return history.frame(row for record in records for row in record["history"])
