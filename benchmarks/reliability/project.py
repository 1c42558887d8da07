"""A small project that runs the suite in a process of its own, and the tables that it leaves."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # small matrices, many processes: more threads only wait for each other

import pytest
from safetensors.torch import save_file

from kvbench.results.saved import Outcome, read
from kvbench.studies import kv_memory
from kvbench.studies.registry import BUILT_IN
from kvbench.workloads import WORKLOADS, generated

SUITE = Path(__file__).parent.parent / "test_ablation.py"
CLASSES = 10
SMALL = replace(
    WORKLOADS["fractals"],
    name="small",
    train_count=640,
    val_count=128,
    opener=generated(CLASSES),
    seeds=2,
)
STUDY = replace(kv_memory.STUDY, workloads={"small": {"epochs": 3, "lr": 3e-3}})
OUTPUT = "output.txt"
Trouble = Callable[[], object]  # called in the new process before the suite starts; picklable
_context = multiprocessing.get_context("forkserver")
# Imported once: a try then costs what the suite does, not the seconds in which torch is loaded.
_PRELOADED = (
    "benchmarks.reliability.troubles",
    "kvbench.harness.session",
    "kvbench.core.trainer",
    "kvbench.harness.plugin",
)
# Troubles, too: a module that is there in some runs only would make them runs of other code, which share no states.
_context.set_forkserver_preload(["benchmarks.reliability.project", *_PRELOADED])


@dataclass(frozen=True)
class Tables:
    """What must not differ: every history row without its seconds, and the report without what tells seconds."""

    histories: tuple[tuple[Any, ...], ...]
    report: str


def suite(folder: Path, arguments: tuple[str, ...], trouble: Trouble | None) -> None:
    """Run the suite in ``folder``, in this process; ends it with pytest's exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind the scenes ignores Ctrl-C
    os.chdir(folder)
    with Path(OUTPUT).open("ab") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    WORKLOADS["small"] = SMALL
    BUILT_IN[STUDY.name] = STUDY
    if trouble is not None:
        trouble()
    # Hypothesis would load itself, a second, to end a session that does not use it.
    without = [word for plugin in ("cacheprovider", "hypothesispytest") for word in ("-p", f"no:{plugin}")]
    code = pytest.main(["benchmarks", *without, "--benchmark-json=run.json", *arguments])
    sys.stdout.flush()
    raise SystemExit(int(code))


class Project:
    """A folder with the suite, a teacher of 10 classes, and references recorded by an undisturbed run.

    Args:
        folder: a new one is made there.
        model: a project to copy, references and all; without one they are recorded.
    """

    def __init__(self, folder: Path, model: Project | None = None):
        self.folder = folder.resolve()
        (self.folder / "benchmarks").mkdir(parents=True)
        shutil.copy(SUITE, self.folder / "benchmarks")
        teacher = self.folder / "teacher.safetensors"
        (self.folder / "pytest.ini").write_text(
            "[pytest]\nkvbench_workload = small\nkvbench_checkpoint = teacher.safetensors\n"
        )
        if model is not None:
            shutil.copy(model.folder / teacher.name, teacher)
            shutil.copytree(model.folder / "expected", self.folder / "expected")
            return
        from kvbench.features.teacher import shipped

        state = shipped("fractals").module.state_dict()
        cut = {name: value[:CLASSES].contiguous() if name.startswith("fc.") else value for name, value in state.items()}
        save_file(cut, teacher)
        self.run("--kvbench-update-expected", "--kvbench-seeds", "4")
        self.forget()

    def start(self, *arguments: str, trouble: Trouble | None = None) -> ForkServerProcess:
        """Start the suite in a process of its own."""
        process = _context.Process(target=suite, args=(self.folder, arguments, trouble))
        process.start()
        return process

    def run(self, *arguments: str, trouble: Trouble | None = None) -> int:
        """Run the suite to its end; returns its exit code, negative where a signal ended it."""
        process = self.start(*arguments, trouble=trouble)
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    @property
    def output(self) -> str:
        """What all runs printed."""
        return (self.folder / OUTPUT).read_text(errors="replace")

    @property
    def cache(self) -> Path:
        """Where banks, states and the report lie."""
        return self.folder / ".kvbench"

    def forget(self) -> None:
        """Remove whatever runs left but the references."""
        shutil.rmtree(self.cache, ignore_errors=True)
        (self.folder / "run.json").unlink(missing_ok=True)
        (self.folder / OUTPUT).unlink(missing_ok=True)

    def stage(self) -> str:
        """How far the latest run came, from what lies there."""
        if (self.folder / "run.json").exists():
            return "saved"
        if (self.cache / f"report-{SMALL.name}.md").exists():
            return "reporting"
        banks = list(self.cache.glob("small-*/manifest.json"))
        return "training" if len(banks) == 2 else "extraction"

    def tables(self) -> Tables | None:
        """The tables of the latest whole run; None where there is none."""
        saved, report = self.folder / "run.json", self.cache / f"report-{SMALL.name}.md"
        if not saved.exists() or not report.exists():
            return None
        run = read(saved)  # trainings that are reused whole stand apart in the file
        if run.outcome is Outcome.INCOMPLETE:
            return None
        histories = run.histories.sort_values(["configuration", "seed", "epoch"]).drop(columns="seconds")
        rows = histories.itertuples(index=False, name=None)
        return Tables(tuple(rows), _without_seconds(report.read_text()))

    @cached_property
    def undisturbed(self) -> tuple[Tables, float]:
        """The tables of a run that nothing disturbs, and the seconds it takes."""
        self.forget()
        start = time.perf_counter()
        self.undisturbed_code = self.run()
        seconds = time.perf_counter() - start
        tables = self.tables()
        assert tables is not None, self.output
        self.forget()
        return tables, seconds


def _without_seconds(report: str) -> str:
    """The report's lines that tell no seconds and no date, without the padding that others' widths give them."""
    kept = re.sub(r"\n  (?=\S| )", " ", report.partition("## Seconds")[0]).splitlines()  # list items are wrapped
    lines = [line for line in kept if "seconds" not in line and not line.startswith(("- date", "- resumed"))]
    return "\n".join(re.sub(r"-{3,}|\s+", " ", line) for line in lines)
