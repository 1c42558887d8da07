"""The OPTIONS table: every pytest option of kvbench, its ini key, its default and its help."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from kvbench.utils.errors import UserError, unknown

UNREADABLE = ("stop", "skip")  # what becomes of image files that cannot be read

MOST_SEEDS = 1000  # as many as a history may have


@dataclass(frozen=True)
class Option:
    """A row: ``--kvbench-NAME`` and the ini key ``kvbench_NAME``."""

    name: str
    default: str
    help: str
    path: bool = False  # relative to the current folder on the command line, to pytest's rootdir in an ini file
    shapes: bool = True  # decides what is trained, so that a command that repeats a run names it

    @property
    def flag(self) -> str:
        return f"--kvbench-{self.name}"

    @property
    def ini(self) -> str:
        return "kvbench_" + self.name.replace("-", "_")


FRESH = "--kvbench-fresh"  # a flag, not for ini files: as a habit it would undo what it is for
OPTIONS = [
    Option("workload", "fractals", "what to train on: fractals, tiny-imagenet, imagenet or folder"),
    Option("root", "", "folder with the workload's images", path=True),
    Option("device", "auto", "where to train: auto (an accelerator where there is one), cpu, cuda, cuda:1, mps or xpu"),
    Option(
        "seeds",
        "",
        "how many seeds, counted from 0, or a range such as 5:8; empty: the workload's own number",
        shapes=False,
    ),
    Option("cache", ".kvbench", "folder for feature banks", path=True, shapes=False),
    Option("expected", "expected", "folder of references, with one folder a workload", path=True),
    Option(
        "report", "", "file for the tables in markdown; empty: report-WORKLOAD.md in the cache", path=True, shapes=False
    ),
    Option("pooling", "global", "how taps are pooled: global or pyramid"),
    Option("precision", "float32", "of the teacher's pass and the banks: float32, or bfloat16, half as large"),
    Option("taps", "", "module paths of the teacher, shallow to deep, with commas between; empty: the workload's"),
    Option("teacher", "", "a torchvision classifier with its pretrained weights; empty: the workload's teacher"),
    Option(
        "checkpoint", "", "the teacher's weights: a state dict (safetensors, or torch.save of tensors alone)", path=True
    ),
    Option("unreadable", "stop", "image files that cannot be read: stop the run, or skip them and list them"),
]


def parse_seeds(text: str, default: int) -> tuple[int, ...]:
    """Parse ``3`` (0, 1, 2) or ``5:8`` (5, 6, 7); empty: ``default`` seeds. Raises `UserError` for anything else."""
    first, colon, last = text.strip().partition(":")
    try:
        if len(text) > 40:
            raise ValueError
        seeds = range(int(first), int(last)) if colon else range(int(first or default))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0:
        raise UserError(f"Cannot read the seeds {text!r}: give a number from 1, such as 3, or a range such as 5:8.")
    if seeds[-1] >= 2**53 or seeds[-1] - seeds[0] >= MOST_SEEDS:
        raise UserError(f"Too many or too large seeds, {text!r}: at most {MOST_SEEDS:,} are trained, below 2**53.")
    return tuple(seeds)


def parse_taps(text: str) -> tuple[str, ...]:
    """Parse module paths with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def check_unreadable(text: str) -> str:
    """Return ``text`` if it is one of `UNREADABLE`; raises `UserError` otherwise."""
    if text not in UNREADABLE:
        raise unknown("way with unreadable images", text, UNREADABLE)
    return text


def command(given: Mapping[str, str], *, paths: bool = True) -> str:
    """The pytest command with the options of ``given`` that decide what is trained and are not the defaults.

    ``paths=False`` puts the option's name in capitals in the place of every path, for readers on other machines.
    """
    words = ["pytest", "benchmarks/"]
    for row in OPTIONS:
        if row.shapes and given[row.name] != row.default:
            words += [row.flag, given[row.name] if paths or not row.path else row.name.upper()]
    return shlex.join(words)
