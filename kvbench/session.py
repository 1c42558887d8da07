"""A benchmark session: what the pytest plugin knows, apart from pytest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench import findings, history, reference, report
from kvbench.errors import UserError, unknown
from kvbench.options import POOLINGS, optional_path, parse_seeds, parse_taps
from kvbench.provenance import FACTS
from kvbench.recipe import Configuration, configurations
from kvbench.workloads import workload

if TYPE_CHECKING:
    import pandas as pd

    from kvbench.progress import Progress
    from kvbench.settings import Banks, Settings
    from kvbench.trainer import Run, Training


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    ``unsettled``: the data could not decide it. ``lacking``: it could not be made at all.
    """

    text: str = ""
    failed: bool = False
    unsettled: bool = False
    lacking: bool = False


class Session:
    """Opens the banks, trains, collects the records of all trainings, compares and judges them.

    Args:
        values: every option's value, by its name in `kvbench.options.OPTIONS`.
        base: the folder that relative paths start from.
        progress: where to show it.
        update: write references instead of comparing with them.

    Raises:
        UserError: a workload, device or number of seeds makes no sense.
    """

    def __init__(self, values: Mapping[str, str], base: Path, progress: Progress, *, update: bool = False):
        self.values, self.progress, self.update = values, progress, update
        self.workload = workload(values["workload"])
        self.seeds = parse_seeds(values["seeds"], self.workload.seeds)
        if values["pooling"] not in POOLINGS:
            raise unknown("pooling", values["pooling"], POOLINGS)
        self.cache = base / Path(values["cache"]).expanduser()
        self.expected = base / Path(values["expected"]).expanduser()
        self.report_path = base / (optional_path(values["report"]) or self.cache / f"report-{self.workload.name}.md")
        self.trainings_ahead = 0
        self.seen: dict[str, str] = {}  # id of a configuration or finding -> how its test ended
        self.records: dict[str, dict[str, Any]] = {}
        self.reasons: list[str] = []  # why the session fails beyond its failed tests
        self.failures: list[str] = []
        self.summary = ""
        self._result = "incomplete"
        self._epochs_done = 0

    @property
    def finding_ids(self) -> list[str]:
        """The findings that tests are made for."""
        return list(findings.FINDINGS)

    def configurations(self) -> list[Configuration]:
        """Every student with both recipes, at this workload's scale."""
        from kvbench.models import STUDENTS

        return configurations(list(STUDENTS), self.workload.recipe)

    @cached_property
    def settings(self) -> Settings:
        """What decides the banks."""
        from kvbench.settings import Settings, resolve_device

        return Settings(
            self.workload,
            resolve_device(self.values["device"]),
            self.cache,
            optional_path(self.values["root"]),
            self.values["pooling"],
            parse_taps(self.values["taps"]),
            self.values["teacher"],
            optional_path(self.values["checkpoint"]),
        )

    @cached_property
    def banks(self) -> Banks:
        """Both splits' banks, made where the cache lacks them."""

        def tick(split: str, done: int, total: int) -> None:
            self.progress.show("image", f"{self.workload.name}: teacher pass, {split}", done, total)

        banks = self.settings.open_banks(tick)
        self.progress.close()
        return banks

    @cached_property
    def reference(self) -> reference.Reference:
        """The workload's reference; raises `UserError` where there is none."""
        return reference.load(self.expected, self.workload.name)

    def training(self, configuration: Configuration) -> Training:
        """Make a configuration's training with all seeds."""
        from kvbench.trainer import Training

        return Training(configuration, self.banks.train, self.banks.val, self.seeds, self._tick)

    def _tick(self, run: Run) -> None:
        epochs = run.configuration.recipe.epochs
        total = max(1, self.trainings_ahead) * len(self.seeds) * epochs
        self._epochs_done += 1
        text = f"{run.configuration.id} seed {run.seed} epoch {run.epochs_done}/{epochs}"
        self.progress.show("epoch", text, min(self._epochs_done, total), total)

    def record(self, training: Training, *, compared: bool) -> dict[str, Any]:
        """What a training leaves for a saved benchmark: enough to make every table again."""
        from kvbench.record import record

        return record(training, self.workload, self.banks, self.seeds, compared=compared)

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
        return history.frame(row for record in self._ordered() for row in record["history"])

    def _ordered(self) -> list[dict[str, Any]]:
        order = {row.id: place for place, row in enumerate(self.configurations())}
        return [self.records[name] for name in sorted(self.records, key=lambda name: order.get(name, len(order)))]

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs per sample of each configuration."""
        return {name: record["flops_per_sample"] for name, record in self.records.items()}

    def compare(self, training: Training) -> Outcome:
        """Compare a finished training's curves with the reference; raises `UserError` where there is none."""
        if self.update:
            return Outcome()  # the session fails at its end, when the references are written
        name = training.configuration.id
        prints = self.record(training, compared=True)["fingerprints"]
        fresh = history.frame(training.history)
        made = reference.compare(self.reference, fresh, name, prints, self.seeds)
        return Outcome(made.describe(), failed=made.failed, unsettled=not made.judged)

    def check_finding(self, name: str) -> Outcome:
        """Judge a finding on the histories so far and compare its verdict with the recorded one."""
        finding = findings.finding(name)
        histories = self.histories
        lacking = finding.lacks(histories)
        judged = findings.judge(finding, histories, self.costs)
        if not judged:
            return Outcome("lacks " + "; ".join(f"{k}: {', '.join(v)}" for k, v in lacking.items()), lacking=True)
        if self.update:
            return Outcome()
        text = "\n".join(judgement.describe() for judgement in judged)
        changes = reference.verdict_changes(self.reference, judged, list(self.records))
        told = [change.describe() for change in changes]
        return Outcome(
            "\n".join([*told, "", text]),
            failed=any(change.failed for change in changes),
            unsettled=any(change.unconfirmed for change in changes),
        )

    def finish(self, *, tests_failed: bool) -> None:
        """End the session: judge what no test judged, update references, make the report."""
        self.progress.close()
        self._judge_rest()
        full = len(self.records) == len(self.configurations())
        complete = full and all(record["compared"] for record in self.records.values())
        if full and not self.update:
            self._find_absent()
        if self.update and self.records:
            self._update(tests_failed=tests_failed, full=full)
        self._result = "failed" if tests_failed or self.reasons else "passed" if complete else "incomplete"
        lines = []
        if any(record["history"] for record in self.records.values()):
            self.report_path.parent.mkdir(parents=True, exist_ok=True)
            self.report_path.write_text(self._markdown(clauses=True), encoding="utf-8")
            lines = [self._markdown(clauses=False), f"Tables, with every clause of the verdicts: {self.report_path}"]
        untold = sorted(name for name in self.seen if not self._compared(name))
        if untold and not self.update:
            lines.append(f"NOT COMPARED with the reference, as their tests did not get that far: {', '.join(untold)}.")
        self.summary = "\n".join(lines)

    def _compared(self, name: str) -> bool:
        return name in findings.FINDINGS or (name in self.records and self.records[name]["compared"])

    def _judge_rest(self) -> None:
        """Findings whose tests were skipped (by ``--benchmark-only``, in xdist's workers) are judged all the same."""
        for name in findings.FINDINGS:
            if self.seen.get(name) != "skipped":
                continue
            try:
                outcome = self.check_finding(name)
            except UserError as error:
                outcome = Outcome(str(error), failed=True)
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
        first = self._ordered()[0]
        counted = self.seeds == tuple(range(len(self.seeds)))
        seeds = str(len(self.seeds)) if counted else f"{self.seeds[0]}:{self.seeds[-1] + 1}"
        provenance = {
            "command": f"{reference.command(self.workload.name)} --kvbench-seeds {seeds} --kvbench-update-expected",
            **{key: first[key] for key in ("fingerprints", *FACTS)},
            "flops_per_sample": self.costs,
        }
        try:
            told = reference.update(self.expected, self.workload.name, self.histories, provenance, full=full)
        except UserError as error:
            told = f"References NOT updated: {error}"
        self.reasons.append(f"This run fails by design, as --kvbench-update-expected was given. {told}")

    def _markdown(self, *, clauses: bool) -> str:
        first = self._ordered()[0]
        facts = {"workload": self.workload.name, **{key: first[key] for key in FACTS}}
        judged = findings.judge_all(self.histories, self.costs)
        return report.report(self.histories, judged, facts, self.outcome(), clauses=clauses)

    def outcome(self) -> dict[str, Any]:
        """How the session went, for the saved benchmark: a failed run must not become a baseline unnoticed."""
        return {
            "workload": self.workload.name,
            "outcome": self._result,
            "reasons": [*self.failures, *self.reasons],
        }
