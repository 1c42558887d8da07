"""The OPTIONS table: every option of kvbench, with its default, its help and the function that reads its value.

A new option is one row. pytest takes it as ``--kvbench-NAME`` and from the ini key ``kvbench_NAME``; `Session` finds
its value under its name; commands that repeat a run name it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbench.core.recipe import POOLINGS, PRECISIONS
from kvbench.utils.errors import UserError, unknown
from kvbench.workloads import WORKLOADS

UNREADABLE = ("stop", "skip")  # what to do about image files that cannot be read
MIXED = ("tell", "refuse")  # what to do about banks that were computed in part elsewhere
ENGINES = ("local", "ray")
STRATEGIES = ("auto", "interleaved", "stacked")  # how the seeds of a configuration are trained
OF_TRAINING = ("seeds", "strategy")  # what trainings take, beside what decides banks
MOST_SEEDS = 1000  # as many as a history may have


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``3`` (0, 1, 2) or ``5:8`` (5, 6, 7); empty text gives no seeds. Raises `UserError` for anything else."""
    if not text.strip():
        return ()
    first, colon, last = text.strip().partition(":")
    try:
        if len(text) > 40:
            raise ValueError
        seeds = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0:
        raise UserError(f"Cannot read the seeds {text!r}: give a number from 1, such as 3, or a range such as 5:8.")
    if seeds[-1] >= 2**53 or seeds[-1] - seeds[0] >= MOST_SEEDS:
        raise UserError(f"Too many or too large seeds, {text!r}: at most {MOST_SEEDS:,} are trained, below 2**53.")
    return tuple(seeds)


def parse_taps(text: str) -> tuple[str, ...]:
    """Parse module paths separated by commas. Raises `UserError` where one is there twice."""
    taps = tuple(part.strip() for part in text.split(",") if part.strip())
    for tap in taps:
        if taps.count(tap) > 1:
            raise UserError(f"The tap {tap!r} is named {taps.count(tap)} times: name each once, shallow to deep.")
    return taps


def parse_path(text: str) -> Path | None:
    """Parse a path, with ``~`` for the home directory; empty text gives None."""
    return Path(text).expanduser() if text else None


def parse_cache(text: str) -> Path | None:
    """Parse a path; raises `UserError` for the URL of a bucket, which would become a folder of that name."""
    if "://" in text:
        raise UserError(f"The cache is a folder of this machine, not {text}: share banks by --kvbench-bucket {text}.")
    return parse_path(text)


def parse_bucket(text: str) -> str:
    """Check a URL; raises `UserError` for one without a name, or with a password, which reports would show."""
    protocol, _, rest = text.partition("://")
    name = rest.partition("/")[0]
    if "@" in name:
        raise UserError(
            f"The bucket's URL holds a password, which reports would show: write {protocol}://{name.rpartition('@')[2]}"
            " and give credentials as the service reads them, such as in AWS_ACCESS_KEY_ID."
        )
    if text and (not protocol or not rest.strip("/")):
        raise UserError(f"Cannot read the bucket {text!r}: valid are URLs such as s3://NAME/FOLDER.")
    return text


def one_of(kind: str, valid: Iterable[str]) -> Callable[[str], str]:
    """A parser that accepts the ``valid`` texts alone; it raises `UserError` naming them."""

    def parse(text: str) -> str:
        if text not in valid:
            raise unknown(kind, text, valid)
        return text

    return parse


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Args:
        name: ``--kvbench-NAME`` on pytest's command line, ``kvbench_NAME`` in its ini file.
        default: the text that stands for an option that is not given.
        help: what ``pytest --help`` and the commands say about it.
        parse: turns the text into a value; raises `UserError` for text that makes no sense.
        repeated: decides results, so that a command that repeats a run names it.
        decides_banks: decides the feature banks or where they lie, so that ``kvbench extract`` takes it, too.
        several: takes several words.
    """

    name: str
    default: str
    help: str
    parse: Callable[[str], Any] = str
    repeated: bool = True
    decides_banks: bool = True
    several: bool = False

    @property
    def flag(self) -> str:
        return f"--kvbench-{self.name}"

    @property
    def ini(self) -> str:
        return "kvbench_" + self.name.replace("-", "_")

    @property
    def path(self) -> bool:
        """Whether it is a path: relative to the current directory on a command line, to rootdir in an ini file."""
        return self.parse in {parse_path, parse_cache}


FRESH = "--kvbench-fresh"  # a flag, not for ini files: as a habit it would undo what it is for
VERIFY = "--kvbench-verify"  # a flag, likewise
OPTIONS = [
    Option(
        "study", "", "which study; empty: the project's own, or kv-memory where there is none"),
    Option("workload", "", f"what to train on: {', '.join(WORKLOADS)}; empty: the study's first, such as fractals"),
    Option(
        "set",
        "",
        "fields of the study's recipes and of the workload, such as lr=3e-3 epochs=5 size=32 train_count=2000; such a"
        " run is compared with a reference of its own",
        several=True,
    ),
    Option("root", "", "folder with the workload's images", parse_path),
    # `kvbench.harness.setup.resolve_device` looks for the device: it needs torch, which is slow to import.
    Option("device", "auto", "where to train: auto (an accelerator where there is one), cpu, cuda, cuda:1, mps or xpu"),
    Option(
        "seeds",
        "",
        "how many seeds, counted from 0, or a range such as 5:8; empty: the workload's own number",
        parse_seeds,
        repeated=False,
        decides_banks=False,
    ),
    Option(
        "engine",
        "local",
        "who passes images and trains: local, this process, or ray, the cluster at RAY_ADDRESS",
        one_of("engine", ENGINES),
        repeated=False,
        decides_banks=False,
    ),
    Option(
        "strategy",
        "auto",
        "how seeds are trained: interleaved, each for itself, or stacked, all as one model; auto: stacked on an"
        " accelerator",
        one_of("strategy", STRATEGIES),
        decides_banks=False,
    ),
    Option("cache", ".kvbench", "folder for feature banks", parse_cache, repeated=False),
    Option(
        "bucket",
        "",
        "a folder that fsspec reaches, such as s3://NAME/FOLDER, to share banks by; the cache has copies",
        parse_bucket,
        repeated=False,
    ),
    Option(
        "expected", "expected", "folder of references, with one folder a workload", parse_path, decides_banks=False
    ),
    Option(
        "report",
        "",
        "file for the tables in markdown; empty: report-WORKLOAD.md in the cache",
        parse_path,
        repeated=False,
        decides_banks=False,
    ),
    Option(
        "html",
        "",
        "file for the report as one page of HTML, with figures; empty: none",
        parse_path,
        repeated=False,
        decides_banks=False,
    ),
    Option("pooling", "global", "how taps are pooled: global or pyramid", one_of("pooling", POOLINGS)),
    Option(
        "precision",
        "float32",
        "of the teacher's pass and the banks: float32, or bfloat16 or float16, half as large",
        one_of("precision", PRECISIONS),
    ),
    Option(
        "taps",
        "",
        "module paths of the teacher, shallow to deep, with commas between, each with the letters of its axes behind it"
        " where these are not clear, such as features.5@BHWC; empty: the workload's, or the"
        " teacher's last three stages",
        parse_taps,
    ),
    Option(
        "teacher",
        "",
        "another teacher, with the weights that it comes with: a torchvision classifier, timm:NAME, or a function of"
        " yours, package.module:function; empty: the workload's",
    ),
    Option(
        "checkpoint",
        "",
        "the teacher's weights: a file with one state dict that fits (safetensors or torch.save)",
        parse_path,
    ),
    Option(
        "unreadable",
        "stop",
        "image files that cannot be read: stop the run, or skip them and list them",
        one_of("way with unreadable images", UNREADABLE),
    ),
    Option(
        "mixed",
        "tell",
        "feature banks whose parts come from unlike machines or versions: tell of it, or refuse them",
        one_of("way with mixed banks", MIXED),
        repeated=False,
    ),
]  # fmt: skip


def command(given: Mapping[str, str], *, paths: bool = True) -> str:
    """The pytest command with the options of ``given`` that decide results and are not the defaults.

    ``paths=False`` puts the option's name in capitals in the place of every path, for readers on other machines.
    """
    words = ["pytest", "benchmarks/"]
    for row in OPTIONS:
        if row.repeated and given[row.name] != row.default:
            text = given[row.name] if paths or not row.path else row.name.upper()
            words += [row.flag, *(text.split() if row.several else [text])]
    return shlex.join(words)
