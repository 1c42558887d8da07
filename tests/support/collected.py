"""A session's collector without training: it is given histories as if they had been trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kvbench.findings.design import Design
from kvbench.harness.collector import Collector
from kvbench.harness.result import Result
from kvbench.results import history


def collected(
    folder: Path,
    workload: str,
    design: Design,
    frame: pd.DataFrame,
    *,
    select: Sequence[str] = (),
    update: bool = False,
    **facts: object,
) -> tuple[Collector, Result]:
    """A session that trained a history frame, held against ``folder``; with ``select`` these names alone.

    ``facts`` are of every training's record.
    """
    seeds, run = tuple(history.seeds(frame)), "pytest benchmarks/"
    collector = Collector(workload, design, seeds, folder, run, run, update=update)
    for name in select or (*design.names, *design.findings):
        test, record = f"benchmarks/test_ablation.py::test_it[{name}]", None
        collector.select(name, test)
        if name in design.names:
            rows = history.of(frame, name).to_dict("records")
            record = {
                "configuration": name, "recipe": {"epochs": len(rows) // len(seeds)}, "seeds": list(seeds),
                "random_numbers": "here", "fingerprints": {}, "history": rows, "replicate_history": [],
                "reused_epochs": [], "diverged": False, "state_notes": [], **facts,
            }  # fmt: skip
        collector.absorb(name, test, "passed", record)
    return collector, collector.finish(tests_failed=False, interrupted=False)
