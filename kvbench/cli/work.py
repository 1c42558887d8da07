"""The commands that show what there is to train, and train it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from kvbench.cli import complete
from kvbench.cli.command import OF_BANKS, bar, echo, example, style, takes
from kvbench.harness.options import OF_TRAINING
from kvbench.utils.errors import UserError
from kvbench.workloads import DEFAULT, LARGEST_SIZE

logger = logging.getLogger(__name__)
app = typer.Typer()
teacher_app = typer.Typer(**style, help="Train the networks that students are distilled from.",
                           epilog="Example: kvbench teacher train --workload fractals")  # fmt: skip


@app.command(**example("students --classes 200"))
@takes(("study",))
def students(
    values: dict[str, Any],
    names: Annotated[
        Optional[list[str]],
        typer.Argument(help="Which; all where none is named.", autocompletion=complete.students),
    ] = None,
    widths: Annotated[str, typer.Option(help="Widths of the taps, shallow to deep.")] = "256,512,512",
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 1000,
) -> None:
    """Print the table of a study's students.

    What they read, their parameters, the trainable ones, and the FLOPs of a sample's forward pass.
    """
    from tabulate import tabulate

    from kvbench.core.cost import cost
    from kvbench.studies.registry import find

    study = find(values["study"], values["project"])
    try:
        taps = [int(part) for part in widths.split(",")]
    except ValueError:
        taps = [0]
    if min(taps) < 1:
        raise UserError(f"Cannot read the widths {widths!r}: give whole numbers from 1, such as 256,512,512.")
    rows = []
    for row in [study.student(name) for name in names] if names else study.students:
        row.need_taps(len(taps))
        computed = cost(row, [taps[tap] for tap in row.taps], classes)
        last = row.taps == tuple(range(-len(row.taps), 0))
        reads = ("last tap" if len(row.taps) == 1 else f"last {len(row.taps)} taps") if last else f"taps {row.taps}"
        counts = (computed.parameters, computed.trainable, computed.flops_per_sample)
        numbers = ["unknown" if count is None else f"{count:,}" for count in counts]
        rows.append([row.name, reads, row.summary, *numbers])
    headers = ["student", "reads", "made of", "parameters", "trainable", "FLOPs a sample"]
    align = ("left", "left", "left", "right", "right", "right")
    echo(tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True))


@app.command(**example("taps resnet50"))
def taps(
    model: Annotated[str, typer.Argument(help="A teacher, as in --kvbench-teacher.")],
    size: Annotated[
        Optional[int], typer.Option(min=1, max=LARGEST_SIZE, help="Side of the images; default: that of its weights.")
    ] = None,
    depth: Annotated[
        Optional[int], typer.Option(min=1, help="How deep modules may lie; default: as deep as the default taps.")
    ] = None,
) -> None:
    """List what can be tapped of a teacher.

    Modules with their shapes and widths; marks what is tapped by default, and downloads no weights.
    """
    from tabulate import tabulate

    from kvbench.core.stages import last_stages
    from kvbench.features.architecture import architecture
    from kvbench.features.teacher import tappable

    found = tappable(model, size)
    default = architecture(model).taps or last_stages(tappable(model))
    reach = depth or max((path.count(".") + 1 for path in default), default=2)
    listed = [tap for tap in found if tap.path.count(".") < reach]
    rows = [[tap.path, tap.shape, tap.width, "default" if tap.path in default else ""] for tap in listed]
    echo(tabulate(rows, ["tap", "of an image", "width", ""], tablefmt="github", colalign=("left", "left", "right")))
    if not default:
        echo("\nNo three stages can be told: name taps with --kvbench-taps.")
    if more := len(found) - len(listed):
        echo(f"\n{more:,} more lie deeper: --depth {reach + 1}.")


Part = Annotated[
    str,
    typer.Option(help="Do the I-th of N shares of the work, such as 1/8: for the I-th job of an array.", metavar="I/N"),
]


@app.command(**example("extract --workload folder --root data/flowers --teacher resnet18 --teacher resnet50"))
@takes([*OF_BANKS, "engine"], again=("teacher", "checkpoint", "taps", "pooling", "precision"))
def extract(
    values: dict[str, Any],
    verify: Annotated[bool, typer.Option(help="Read banks that are there whole and compare all checksums.")] = False,
    part: Part = "",
) -> None:
    """Compute a workload's feature banks.

    One pass over each split; an interrupted pass is resumed. --teacher, --checkpoint, --taps, --pooling and --precision
    may be given several times, side by side: the pass reads each image once and fills all their banks. Jobs that each
    do a part may run at once, on machines that share the cache, and again.
    """
    from kvbench.harness.engine import run
    from kvbench.harness.projects import experiment
    from kvbench.harness.setup import Settings, fill_banks
    from kvbench.utils.shares import Share

    share = Share.parse(part) if part else Share()
    each = [Settings.of(one, experiment(one, one["project"]).images, verify=verify) for one in values["each"]]
    if part or len(each) > 1:
        every = [settings.stores(bar.show)[0] for settings in each]
    if values["engine"] == "ray" and not part:
        if problems := run("extract", [one["texts"] for one in values["each"]], on_progress=bar.show):
            raise UserError(" ".join(problems))
    elif part or len(each) > 1:
        counts = fill_banks(every, share, each[0].device, bar.show)
    if part:
        bar.close()
        for stores in every:
            for split, store in stores.items():
                echo(f"{split}: {counts[split]:,} of {len(store.parts):,} part files are done, in {store.path}")
        return
    for settings in each:
        banks = settings.open_banks(bar.show)
        bar.close()
        of = f" of {banks.fingerprints['teacher']}, {settings.precision}" if len(each) > 1 else ""
        for split, bank in (("train", banks.train), ("val", banks.val)):
            echo(
                f"{split}{of}: {len(bank):,} images, taps {' '.join(map(str, bank.widths))} wide, {bank.classes:,}"
                f" classes, teacher's accuracy {bank.teacher_accuracy:.1%}, in {values['cache']}"
            )


@app.command(**example("train --part 1/8 --workload tiny-imagenet --seeds 10"))
@takes([*OF_BANKS, *OF_TRAINING, "engine"], asks=False)
def train(values: dict[str, Any], part: Part = "1/1") -> None:
    """Train what a test run would, without comparing.

    What is complete is kept in the cache, and pytest benchmarks/ with the same options finds it and only compares. Jobs
    that each do a part may run at once, on machines that share the cache, and again; one that was killed goes on.
    """
    from kvbench.harness.engine import run
    from kvbench.harness.projects import collected, flags
    from kvbench.harness.tasks import train_share
    from kvbench.utils.shares import Share

    share = Share.parse(part)
    if values["engine"] == "ray" and (problems := run("train", [values["texts"]], on_progress=bar.show)):
        raise UserError(" ".join(problems))
    session = collected(flags(values["texts"]))
    session.progress = bar
    done = train_share(session, session.rows, share, bar.show)
    bar.close()
    if done.problems:
        raise UserError(" ".join(done.problems))
    echo(
        f"{session.title}: part {share.number} of {share.count} is done, {done.trained + done.found:,} trainings of a"
        f" seed: {done.trained:,} trained, {done.found:,} found, in {session.values['cache']}"
    )


@app.command(**example("sweep --set lr=1e-3,3e-3 --set train_count=1024,4096"))
@takes([*OF_BANKS, *OF_TRAINING, "engine"])
def sweep(
    values: dict[str, Any],
    finding: Annotated[
        Optional[list[str]],
        typer.Option(help="Map this finding alone; may be repeated.", autocompletion=complete.findings),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for sweep.md, verdicts.csv and histories.csv.")] = None,
    chart: Annotated[Optional[Path], typer.Option(help="Picture to write: .svg, .png or .pdf.")] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write the maps as one page to this file, too.")] = None,
) -> None:
    """Map where findings hold.

    Trains and judges every combination of the values that --set gives; those of one field have commas between them.
    What is complete is kept in the cache, and an interrupted sweep goes on where it was.
    """
    from kvbench.harness.engine import run
    from kvbench.harness.projects import chosen
    from kvbench.harness.sweep import sweep as train
    from kvbench.reporting.heat_maps import heat_maps_chart, need_chart
    from kvbench.studies.grid import Grid, read_grid
    from kvbench.utils.files import need_writable, write_text

    grid = Grid(*chosen(values, values["project"]), read_grid(values["set"]))
    if chart:
        need_chart(chart)
    for folder in filter(None, (out, chart and chart.parent, html and html.parent)):
        need_writable(folder)
    options = {name: values[name] for name in (*OF_BANKS, "strategy") if name not in {"study", "workload", "set"}}
    if values["engine"] == "ray":
        run("sweep", [values["texts"]], finding or (), bar.show)  # what is wrong with a cell is said below
    swept = train(grid, values["seeds"] or 0, finding or (), bar.show, **options)
    bar.close()
    echo(swept.markdown())
    if out:
        echo("\n".join(map(str, swept.write(out))))
    if chart:
        heat_maps_chart(swept, chart)
        echo(str(chart))
    if html:
        from kvbench.reporting.map_page import map_page

        write_text(html, map_page(swept))
        echo(str(html))


@teacher_app.command("train", **example("teacher train --workload folder --root data/flowers --set epochs=5"))
@takes(("workload", "set", "root", "device", "cache", "unreadable"))
def teacher_train(
    values: dict[str, Any],
    out: Annotated[Optional[Path], typer.Option(help="File to write; default: teachers/WORKLOAD.safetensors.")] = None,
    arch: Annotated[Optional[str], typer.Option(help="An architecture, as in --kvbench-teacher.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Seed of initialisation, order and augmentation.")] = 0,
) -> None:
    """Train a workload's teacher from scratch.

    Writes fp16 weights and, beside them, a .json file that says where they come from. An interrupted training is
    resumed.
    """
    from kvbench.core.recipe import TeacherRecipe
    from kvbench.features.train_teacher import TeacherTask, train_teacher
    from kvbench.harness.setup import Settings
    from kvbench.studies.experiment import apply, read_choices
    from kvbench.workloads import Workload, workload

    usual = workload(values["workload"] or DEFAULT)
    choices = read_choices(values["set"], TeacherRecipe, Workload)
    row, recipe = apply(choices, usual), apply(choices, usual.teacher_recipe)
    settings = Settings.of(values, row)
    path = out or Path("teachers") / f"{row.name}.safetensors"
    images, _ = settings.images(recipe.count, bar.show)
    # Without the paths, which decide nothing: the record is for readers on other machines.
    command = f"kvbench teacher train --workload {row.name} --seed {seed}"
    command += f" --arch {arch}" if arch else ""
    command += "".join(f" --set {part}" for part in values["set"].split())
    command += f" --unreadable {settings.unreadable}" if settings.unreadable != "stop" else ""
    task = TeacherTask(arch or row.arch, images["train"], images["val"], recipe, seed)
    try:
        facts = train_teacher(task, path, settings.device, command, bar.show)
        bar.close()
    except (KeyboardInterrupt, SystemExit):
        kept = path.with_suffix(".checkpoint").exists()
        logger.info("Stopped: the same command %s.", "resumes from its checkpoint" if kept else "starts over")
        raise
    echo(
        f"{path}: accuracy {facts['val_accuracy']:.1%} on {facts['val_count']:,} validation images,"
        f" entropy {facts['val_entropy_nats']:.2f} nat"
    )
