"""The OPTIONS table: every pytest option of kvbench, its ini twin, its default and its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvbench.errors import UserError

POOLINGS = ("global", "pyramid")


@dataclass(frozen=True)
class Option:
    """A row: ``--kvbench-NAME`` and the ini key ``kvbench_NAME``."""

    name: str
    default: str
    help: str

    @property
    def flag(self) -> str:
        return f"--kvbench-{self.name}"

    @property
    def ini(self) -> str:
        return "kvbench_" + self.name.replace("-", "_")


OPTIONS = [
    Option("workload", "fractals", "what to train on: fractals, tiny-imagenet, imagenet or folder"),
    Option("root", "", "folder with the workload's images"),
    Option("device", "auto", "where to train: auto (an accelerator where there is one), cpu, cuda, cuda:1, mps or xpu"),
    Option("seeds", "", "how many seeds, counted from 0, or a range such as 5:8; empty: the workload's own number"),
    Option("cache", ".kvbench", "folder for feature banks, relative to pytest's rootdir"),
    Option("expected", "expected", "folder of references, relative to pytest's rootdir"),
    Option("report", "", "file for the tables in markdown; empty: report-WORKLOAD.md in the cache"),
    Option("pooling", "global", "how taps are pooled: global or pyramid"),
    Option("taps", "", "module paths of the teacher, shallow to deep, with commas between; empty: the workload's"),
    Option("teacher", "", "a torchvision classifier with its pretrained weights; empty: the workload's teacher"),
    Option("checkpoint", "", "the teacher's weights: a state dict (safetensors, or torch.save of tensors alone)"),
]


def parse_seeds(text: str, default: int) -> tuple[int, ...]:
    """Parse ``3`` (0, 1, 2) or ``5:8`` (5, 6, 7); empty: ``default`` seeds. Raises `UserError` for anything else."""
    first, colon, last = text.strip().partition(":")
    try:
        seeds = range(int(first), int(last)) if colon else range(int(first or default))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0:
        raise UserError(f"Cannot read the seeds {text!r}: give a number from 1, such as 3, or a range such as 5:8.")
    return tuple(seeds)


def parse_taps(text: str) -> tuple[str, ...]:
    """Parse module paths with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def optional_path(text: str) -> Path | None:
    """A path, or None for an empty text."""
    return Path(text).expanduser() if text else None
