"""The search for the operating point of the workload `fractals`, on seeds that no reference uses.

    nice python benchmarks/operating_point.py --out .operating-point

trains a teacher, passes the images through it once, trains students on a grid of learning rates and numbers of images,
and leaves ``histories.csv`` and ``points.md``, a table, below ``--out``. Stopped, it goes on where it was.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration, TeacherRecipe
from kvbench.core.trainer import Training
from kvbench.data.fractals import FractalImages, Rendering
from kvbench.features.train_teacher import TeacherTask, train_teacher
from kvbench.findings.curves import ACCURACY, LOSS, Curves, Runs
from kvbench.findings.vocabulary import AREA, LOWEST, TARGET, sooner
from kvbench.harness.setup import Banks, Settings
from kvbench.results import history
from kvbench.stats.significance import mean_test
from kvbench.studies.kv_memory import STUDY
from kvbench.utils.errors import unknown
from kvbench.utils.files import atomic_write
from kvbench.utils.progress import ProgressBar
from kvbench.utils.text import markdown_table
from kvbench.workloads import WORKLOADS, Workload

SEEDS = 1000  # and up: references have seeds from 0, clean runs from 100
MOST = 8192  # images of a bank; a point with fewer takes the first ones
GROUPS = STUDY.design.groups
BAR = ProgressBar()


@dataclass(frozen=True)
class Candidate:
    """A teacher that may be shipped: how it is trained, its classes, how its images are drawn."""

    recipe: TeacherRecipe
    classes: int = 200
    rendering: Rendering | None = None

    @property
    def row(self) -> Workload:
        """The workload that has this teacher."""
        row = WORKLOADS["fractals"]
        return replace(row, opener=self.open, teacher_recipe=self.recipe, train_count=MOST)

    def open(self, row: Workload, split: str, _root: Path | None, count: int | None) -> FractalImages:
        """Open a split, as `kvbench.workloads.Workload.opener` does."""
        assert count is not None
        return FractalImages(split, count, classes=self.classes, size=row.size, how=self.rendering)

    def banks(self, weights: Path) -> Banks:
        """Train the teacher where ``weights`` are not there yet, and pass the images through it."""
        settings = Settings(self.row, torch.device("cpu"), weights.parent / ".kvbench", checkpoint=weights)
        if not weights.with_suffix(".json").exists():
            weights.parent.mkdir(parents=True, exist_ok=True)
            parts, _ = settings.images(self.recipe.count)
            task = TeacherTask(self.row.arch, parts["train"], parts["val"], self.recipe, seed=0)
            train_teacher(task, weights, settings.device, " ".join(sys.argv), BAR.show)
        return settings.open_banks(BAR.show)


def _once(weight_decay: float, count: int = 96_000) -> TeacherRecipe:
    return TeacherRecipe(epochs=1, count=count, weight_decay=weight_decay)


TEACHERS = {
    "decay-5e-3": Candidate(_once(5e-3)),
    "decay-1e-2": Candidate(_once(1e-2)),
    "decay-5e-3-few": Candidate(_once(5e-3, 48_000)),
    "decay-5e-3-wild": Candidate(_once(5e-3), rendering=Rendering(wobble=0.45, turn=1.0, zoom=0.35, shift=0.3)),
}


@dataclass(frozen=True)
class Search:
    """A grid of points for one teacher, trained with the same students and seeds everywhere."""

    teacher: str
    out: Path
    rates: Sequence[float]
    images: Sequence[int]
    students: Sequence[str]
    seeds: Sequence[int]

    @property
    def histories(self) -> Path:
        """The file of all that was trained: a history frame with the images and lr of each row's point."""
        return self.out / self.teacher / "histories.csv"

    def run(self) -> None:
        """Train what `histories` lacks."""
        opened = TEACHERS[self.teacher].banks(self.out / "teachers" / f"{self.teacher}.safetensors")
        self.histories.parent.mkdir(parents=True, exist_ok=True)
        for count, rate in itertools.product(self.images, self.rates):
            train = _first(opened.train, count)
            recipes = [replace(recipe, lr=rate) for recipe in STUDY.recipes]
            for configuration in STUDY.configurations(recipes):
                seeds = [seed for seed in self.seeds if seed not in self._trained(count, rate, configuration.id)]
                if configuration.student.name in self.students and seeds:
                    self._append(count, rate, _train(configuration, train, opened.val, seeds))

    def _trained(self, images: int, rate: float, name: str) -> set[int]:
        if not self.histories.exists():
            return set()
        found = pd.read_csv(self.histories)
        chosen = (found["images"] == images) & np.isclose(found["lr"], rate) & (found["configuration"] == name)
        return set(found[chosen]["seed"])

    def _append(self, images: int, rate: float, rows: pd.DataFrame) -> None:
        rows.insert(0, "images", images)
        rows.insert(1, "lr", rate)
        before = [pd.read_csv(self.histories)] if self.histories.exists() else []
        with atomic_write(self.histories) as temporary:
            pd.concat([*before, rows]).to_csv(temporary, index=False)
        loss = rows[rows["epoch"] == rows["epoch"].max()]["train_loss"].mean()
        spent = rows["processor_seconds"].sum()
        BAR.print(
            f"{images:,} images, lr {rate:g}, {rows['configuration'].iloc[0]}: {loss:.4f}, processor {spent:.0f} s"
        )


def _first(bank: FeatureBank, count: int) -> FeatureBank:
    return FeatureBank(tuple(tap[:count] for tap in bank.taps), bank.logits[:count], bank.labels[:count])


def _train(configuration: Configuration, train: FeatureBank, val: FeatureBank, seeds: Sequence[int]) -> pd.DataFrame:
    """Histories, with the processor's seconds of all of it spread over the rows."""
    before = os.times()
    training = Training(configuration, train, val, seeds)
    training.finish()
    after = os.times()
    rows = history.frame(training.history)
    return rows.assign(processor_seconds=(after.user + after.system - before.user - before.system) / len(rows))


def points(path: Path) -> Iterator[tuple[int, float, str, Curves]]:
    """Images, lr, recipe and curves of every point that was trained."""
    found = pd.read_csv(path)
    for images, rate in sorted(set(zip(found["images"].tolist(), found["lr"].tolist(), strict=True))):
        rows = found[(found["images"] == images) & (found["lr"] == rate)]
        runs = Runs.of(rows[list(history.COLUMNS)])
        for recipe, names in STUDY.design.configurations.items():
            here = {student: name for student, name in names.items() if name in runs.epochs}
            groups = {group: tuple(s for s in GROUPS[group] if s in here) for group in ("simple", "memory")}
            curves = runs.curves(groups, here)
            if curves.epochs and all(groups.values()):
                yield images, rate, recipe, curves


def faster(curves: Curves, by: str) -> str:
    """Of each simple model: the margin against the memory model that is the least surely slower, and its p-value."""
    said = []
    for claim in sooner("simple", "memory", by=by).claims(curves, {}):
        if claim.gating:
            tests = [mean_test(column, finest=0.0) for column in np.round(claim.margins, 12).T]
            place = int(np.argmax([test.above for test in tests]))
            said.append(f"{claim.margins[:, place].mean():+.2f} ({tests[place].above:.0e})")
    return " ".join(said)


def table(path: Path) -> str:
    """What was trained, a row for each point and recipe."""
    rows = []
    for images, rate, recipe, curves in points(path):
        ends = [
            " ".join(f"{curves.last(student, metric).mean():{form}}" for student in curves.members(group))
            for metric, form in ((LOSS, ".4f"), (ACCURACY, ".3f"))
            for group in ("simple", "memory")
        ]
        at = [f"{images:,}", f"{rate:g}", recipe, str(len(curves.seeds)), " ".join(name[-1] for name in curves.names)]
        rows.append([*at, *ends, *(faster(curves, by) for by in (TARGET, LOWEST, AREA))])
    headers = ["images", "lr", "recipe", "seeds", "models", "loss, simple", "memory", "accuracy, simple", "memory"]
    return markdown_table([*headers, "epochs to the last loss (p)", "to the lowest (p)", "area (p)"], rows)


def main(
    teacher: Annotated[str, typer.Argument(help=f"Which: {', '.join(TEACHERS)}.")] = "decay-5e-3",
    out: Annotated[Path, typer.Option(help="Folder of all that is left.")] = Path(".operating-point"),
    rates: Annotated[str, typer.Option(help="Learning rates.")] = "2.5e-3,2.75e-3,3e-3,3.5e-3",
    images: Annotated[str, typer.Option(help=f"Numbers of training images, at most {MOST}.")] = "6144",
    students: Annotated[str, typer.Option(help="Which students.")] = ",".join(STUDY.design.students),
    seeds: Annotated[int, typer.Option(help=f"How many seeds, from {SEEDS}.", min=2)] = 2,
) -> None:
    """Train students on a grid of points, and print what came of it."""
    if teacher not in TEACHERS:
        typer.echo(f"Error: {unknown('teacher', teacher, TEACHERS)}", err=True)
        raise typer.Exit(2)
    counts, lrs = [int(count) for count in images.split(",")], [float(rate) for rate in rates.split(",")]
    search = Search(teacher, out, lrs, counts, students.split(","), range(SEEDS, SEEDS + seeds))
    search.run()
    BAR.close()
    text = table(search.histories)
    search.histories.with_name("points.md").write_text(text + "\n")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
