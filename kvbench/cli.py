"""The commands that are not a test run.

Each imports what it needs when it runs, so that ``--help`` and ``report`` stay quick.
"""

from __future__ import annotations

import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from kvbench.cli_measure import detect, power
from kvbench.cli_options import (
    CacheOption,
    CheckpointOption,
    DeviceOption,
    ExpectedFolderOption,
    PoolingOption,
    PrecisionOption,
    RootOption,
    SizeOption,
    TapsOption,
    TeacherOption,
    UnreadableOption,
    WorkloadOption,
    settings,
    tell,
)
from kvbench.utils.errors import UserError
from kvbench.utils.logs import show_logs
from kvbench.utils.progress import ProgressBar
from kvbench.utils.signals import SIGINT_CODE, SIGTERM_CODE, on_signals

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup takes words in brackets out of help
    help="Keep the findings of a distillation ablation true. The main job is a test run: pytest benchmarks/",
)
teacher_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Teachers: the frozen networks that students are distilled from.",
)
app.add_typer(teacher_app, name="teacher")
bar = ProgressBar()
app.command()(detect)
app.command()(power)


@app.callback()
def show(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every log record.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors alone.")] = False,
) -> None:
    """Show logs and progress on standard error."""
    context.with_resource(show_logs(bar, verbose - quiet))
    context.call_on_close(bar.close)


@app.command()
def report(
    saved: Annotated[
        Optional[Path], typer.Argument(help="A file that --benchmark-save or --benchmark-json wrote.")
    ] = None,
    expected: Annotated[
        Optional[list[str]],
        typer.Option(help="Show a workload's reference instead; several are shown side by side.", metavar="WORKLOAD"),
    ] = None,
    folder: ExpectedFolderOption = Path("expected"),
    finding: Annotated[Optional[str], typer.Option(help="Show the clauses of this finding alone.")] = None,
) -> None:
    """Print the two tables of a saved benchmark or of a reference, and the verdict on every finding."""
    from kvbench.reporting.report import report_expected, report_saved
    from kvbench.reporting.side_by_side import side_by_side

    if (saved is None) == (not expected):
        raise UserError("Name either a saved benchmark (kvbench report FILE.json) or a workload (--expected WORKLOAD).")
    if expected and len(expected) > 1:
        if finding:
            raise UserError("--finding shows one workload: name one --expected.")
        told = side_by_side(folder, expected)
    else:
        told = report_expected(folder, expected[0], finding) if expected else report_saved(saved or Path(), finding)
    tell(told)


@app.command()
def plot(
    saved: Annotated[
        Optional[Path], typer.Argument(help="A file that --benchmark-save or --benchmark-json wrote.")
    ] = None,
    expected: Annotated[
        Optional[str], typer.Option(help="Plot a workload's reference instead.", metavar="WORKLOAD")
    ] = None,
    folder: ExpectedFolderOption = Path("expected"),
    output: Annotated[Path, typer.Option(help="File to write: .svg, .png or .pdf.")] = Path("curves.svg"),
) -> None:
    """Plot training loss and validation accuracy against epochs, mean and range over seeds; needs kvbench[plot]."""
    from kvbench.reference.store import load
    from kvbench.reporting.charts import curves_chart
    from kvbench.results.saved import read

    if (saved is None) == (expected is None):
        raise UserError("Name either a saved benchmark (kvbench plot FILE.json) or a workload (--expected WORKLOAD).")
    source = load(folder, expected) if expected else read(saved or Path())
    curves_chart(source.histories, output, source.workload)
    tell(str(output))


@app.command()
def students(
    names: Annotated[Optional[list[str]], typer.Argument(help="Which; all where none is named.")] = None,
    widths: Annotated[str, typer.Option(help="Widths of the taps, shallow to deep.")] = "256,512,512",
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 1000,
) -> None:
    """Print the table of students: what they read, parameters, trainable ones, FLOPs of a sample's forward pass."""
    from tabulate import tabulate

    from kvbench.core.models import STUDENTS, cost, student

    try:
        taps = [int(part) for part in widths.split(",")]
    except ValueError:
        taps = [0]
    if min(taps) < 1:
        raise UserError(f"Cannot read the widths {widths!r}: give whole numbers from 1, such as 256,512,512.")
    rows = []
    for row in [student(name) for name in names or STUDENTS]:
        row.need_taps(taps)
        made = cost(row, taps, classes)
        reads = "last tap" if row.reads == 1 else f"last {row.reads} taps"
        counts = (made.parameters, made.trainable, made.flops_per_sample)
        numbers = ["unknown" if count is None else f"{count:,}" for count in counts]
        rows.append([row.name, reads, row.summary, *numbers])
    headers = ["student", "reads", "made of", "parameters", "trainable", "FLOPs a sample"]
    align = ("left", "left", "left", "right", "right", "right")
    tell(tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True))


@app.command()
def extract(
    workload: WorkloadOption = "fractals",
    root: RootOption = None,
    device: DeviceOption = "auto",
    cache: CacheOption = Path(".kvbench"),
    pooling: PoolingOption = "global",
    taps: TapsOption = "",
    teacher: TeacherOption = "",
    checkpoint: CheckpointOption = None,
    unreadable: UnreadableOption = "stop",
    precision: PrecisionOption = "float32",
    size: SizeOption = "",
) -> None:
    """Make a workload's feature banks: one pass of the teacher over each split; an interrupted one goes on."""
    made = settings(
        workload=workload,
        device=device,
        cache=cache,
        root=root,
        pooling=pooling,
        taps=taps,
        teacher=teacher,
        checkpoint=checkpoint,
        unreadable=unreadable,
        precision=precision,
        size=size,
    )
    banks = made.open_banks(bar.show)
    bar.close()
    for split, bank in (("train", banks.train), ("val", banks.val)):
        tell(
            f"{split}: {len(bank):,} images, taps {' '.join(map(str, bank.widths))} wide, {bank.classes:,} classes,"
            f" teacher's accuracy {bank.teacher_accuracy:.1%}, in {cache}"
        )


@teacher_app.command("train")
def teacher_train(
    workload: WorkloadOption = "fractals",
    root: RootOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Optional[Path], typer.Option(help="File to write; default: teachers/WORKLOAD.safetensors.")] = None,
    arch: Annotated[Optional[str], typer.Option(help="A torchvision classifier, instead of the workload's.")] = None,
    size: SizeOption = "",
    epochs: Annotated[Optional[int], typer.Option(min=1, help="Epochs, instead of the workload's.")] = None,
    batch_size: Annotated[
        Optional[int], typer.Option(min=2, help="Images a step, at most all; instead of the workload's.")
    ] = None,
    lr: Annotated[Optional[float], typer.Option(help="Largest learning rate, instead of the workload's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and augmentation.")] = 0,
    cache: CacheOption = Path(".kvbench"),
    unreadable: UnreadableOption = "stop",
) -> None:
    """Train a workload's teacher from scratch; an interrupted training goes on where it was.

    Writes fp16 weights and, beside them, a .json file that says where they come from.
    """
    from kvbench.data.validate import readable
    from kvbench.features.train_teacher import TeacherTask, train_teacher

    made = settings(workload=workload, root=root, device=device, cache=cache, unreadable=unreadable, size=size)
    row = made.workload
    path = out or Path("teachers") / f"{workload}.safetensors"
    if lr is not None and not 0 < lr < math.inf:
        raise UserError(f"Got --lr {lr:g}: valid is a number above 0.")
    usual = row.teacher_recipe
    recipe = replace(usual, epochs=epochs or usual.epochs, batch_size=batch_size or usual.batch_size, lr=lr or usual.lr)
    images = {"train": row.images("train", root, recipe.count), "val": row.images("val", root, row.val_count)}
    if made.unreadable == "skip":
        for split, part in images.items():
            images[split], _ = readable(part, split, cache, row.name, bar.show)
    # Without the paths, which decide nothing: the record is for readers on other machines.
    command = f"kvbench teacher train --workload {workload} --epochs {recipe.epochs} --seed {seed}"
    given = {"arch": arch, "size": size, "batch-size": batch_size, "lr": lr}
    command += "".join(f" --{name} {value}" for name, value in given.items() if value)
    command += f" --unreadable {unreadable}" if unreadable != "stop" else ""
    task = TeacherTask(arch or row.arch, images["train"], images["val"], recipe, seed)
    try:
        facts = train_teacher(task, path, made.device, command, bar.show)
        bar.close()
    except (KeyboardInterrupt, SystemExit):
        kept = path.with_suffix(".checkpoint").exists()
        tell(f"Stopped: the same command {'goes on at its checkpoint' if kept else 'starts over'}.", err=True)
        raise
    tell(
        f"{path}: accuracy {facts['val_accuracy']:.1%} on {facts['val_count']:,} validation images,"
        f" entropy {facts['val_entropy_nats']:.2f} nat"
    )


def main() -> None:
    """Run the command line; a `UserError` is told in its sentence, with exit code 2."""

    def end(_number: signal.Signals) -> NoReturn:
        sys.exit(SIGTERM_CODE)

    try:
        with on_signals(end, signal.SIGTERM):
            app()
    except UserError as error:
        tell(f"Error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(SIGINT_CODE)
