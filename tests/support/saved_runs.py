"""Synthetic saved runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kvbench.results import history
from tests.support.tables import rows


def benchmark(name: str = "Model1", **changes: Any) -> dict[str, Any]:
    entry = {
        "workload": "fractals",
        "configuration": name,
        "history": rows(name, [0.9, 0.4], [0.3, 0.5], val_loss=0.5, agreement=0.6, seconds=1.5),
        "parameters": 513000,
        "trainable": 513000,
        "flops_per_sample": 1_024_000,
        "recipe": {"lr": 0.003},
        "seeds": [0],
        "fingerprints": {"teacher": "abc"},
        "versions": {"torch": "2.9"},
    }
    return {"name": f"test[{name}]", "extra_info": {"kvbench": {**entry, **changes}}, "stats": {"mean": 1.5}}


def content(*benchmarks: Any, **top: Any) -> dict[str, Any]:
    return {
        "machine_info": {"cpu": {"brand_raw": "A processor"}},
        "commit_info": {"id": "1234abcd", "dirty": True},
        "benchmarks": list(benchmarks),
        "datetime": "2026-01-02T03:04:05",
        "kvbench": {"workload": "fractals", "outcome": "passed", "reasons": []},
        **top,
    }


def run_of(histories: pd.DataFrame, *, outcome: str = "passed", reasons: Sequence[str] = (), **facts: Any) -> Any:
    """The content of a saved run with these histories, on a workload that has no reference."""
    usual = {"workload": "nowhere", "study": "kv-memory", "random_numbers": "here", "fingerprints": {"teacher": "abc"}}
    seeds = history.seeds(histories)
    benchmarks = []
    for name in history.configurations(histories):
        rows = history.of(histories, name).astype(object)
        records = rows.where(rows.notna(), None).to_dict("records")
        benchmarks.append(benchmark(name, **{**usual, "seeds": seeds, "history": records, **facts}))
    told = {"workload": facts.get("workload", "nowhere"), "outcome": outcome, "reasons": list(reasons)}
    return content(*benchmarks, kvbench=told)
