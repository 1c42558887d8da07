"""Synthetic runs of four memory models, as a reference and as what is compared with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvbench.results import history

UPDATE = "pytest benchmarks/ --kvbench-workload fractals --kvbench-seeds 8 --kvbench-update-expected"
MEMORY = ("Model3", "Model4", "Model5", "Model6")  # enough for two findings
LAST = {"Model3": 0.30, "Model4": 0.31, "Model5": 0.40, "Model6": 0.42}
STREAM = "abc"  # the name of random numbers
PRINTS = {"teacher": "a" * 64, "data": "b" * 64}


def memory_runs(
    names: Sequence[str] = MEMORY,
    seeds: int = 5,
    *,
    first: int = 0,
    epochs: int = 3,
    shift: float = 1.0,
    noise: float = 0.01,
) -> pd.DataFrame:
    """Falling curves with all metrics; ``shift`` multiplies training losses."""
    spread = np.random.default_rng(first)
    rows = []
    for name in names:
        for seed in range(first, first + seeds):
            wobble = math.exp(noise * spread.normal())
            for epoch in range(1, epochs + 1):
                loss = LAST.get(name, 0.5) * 2 ** (epochs - epoch) * wobble
                rows.append(
                    {
                        "configuration": name,
                        "seed": seed,
                        "epoch": epoch,
                        "train_loss": loss * shift,
                        "val_loss": loss * 1.1,
                        "val_accuracy": 1 - LAST.get(name, 0.5) - 0.02 * (epochs - epoch) + noise * spread.normal() / 5,
                        "agreement": 0.9 + noise * spread.normal() / 5,
                        "seconds": 1.0 + spread.random(),
                    }
                )
    return history.frame(rows)


def perturbed(histories: pd.DataFrame, seeds: int = 4, size: float = 2e-4) -> pd.DataFrame:
    """The first seeds of every configuration again, each run's numbers moved by about ``size``."""
    replicates = histories[histories["seed"].isin(history.seeds(histories)[:seeds])].reset_index(drop=True)
    draw = np.random.default_rng(9)
    moves = {key: draw.normal() for key in zip(replicates["configuration"], replicates["seed"], strict=True)}
    moved = size * np.array([moves[key] for key in zip(replicates["configuration"], replicates["seed"], strict=True)])
    for metric in ("train_loss", "val_loss"):
        replicates[metric] *= np.exp(moved)
    for metric in ("val_accuracy", "agreement"):
        replicates[metric] += moved
    return replicates


def edit(path: Path, old: str, new: str) -> None:
    """Change the first place of a file that reads ``old``."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
