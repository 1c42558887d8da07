"""The commands that are not a test run.

Each imports what it needs when it runs, so that ``--help`` and ``report`` stay quick.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from kvbench.harness.options import OPTIONS, Option
from kvbench.utils.errors import UserError
from kvbench.utils.logs import log_warnings, show_logs
from kvbench.utils.progress import ProgressBar
from kvbench.utils.signals import SIGINT_CODE, SIGTERM_CODE, on_signals
from kvbench.utils.text import plain
from kvbench.workloads import DEFAULT, LARGEST_SIZE

if TYPE_CHECKING:
    from kvbench.findings.design import Design
    from kvbench.mutation.injector import FaultResult
    from kvbench.mutation.replays import FalseAlarms
    from kvbench.reporting.contents import Contents

Saved = Annotated[Optional[Path], typer.Argument(help="A file that --benchmark-save or --benchmark-json wrote.")]
KEYWORD = inspect.Parameter.KEYWORD_ONLY
logger = logging.getLogger(__name__)
bar = ProgressBar()
# Markup would take words in brackets out of help.
style: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(
    **style,
    pretty_exceptions_enable=False,
    help="Keep the findings of a distillation ablation true. The main job is a test run: pytest benchmarks/",
    epilog="Example: kvbench init my-ablation",
)
teacher_app = typer.Typer(**style, help="Train the networks that students are distilled from.",
                           epilog="Example: kvbench teacher train --workload fractals")  # fmt: skip
expected_app = typer.Typer(**style, help="Work on references, the histories that runs are compared with.",
                            epilog="Example: kvbench expected rejudge")  # fmt: skip
cache_app = typer.Typer(**style, help="Look at what is kept for later runs, and remove it.",
                        epilog="Example: kvbench cache list")  # fmt: skip
app.add_typer(teacher_app, name="teacher")
app.add_typer(cache_app, name="cache")
app.add_typer(expected_app, name="expected")


def takes(names: Iterable[str], *, asks: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take rows of the OPTIONS table, as ``--NAME`` and under pytest's names, which messages use.

    The command's first parameter gets the parsed values of all rows, by name; those not taken have their defaults. Its
    ``project`` are the studies of the current project, if it ``asks`` for them, its ``texts`` the options that were
    given, as they were.
    """
    taken = {row.ini: row for row in OPTIONS if row.name in names}
    taken_by_name = {row.name: row for row in taken.values()}
    asks = asks and "study" in names

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            texts = {row.name: given.pop(name) for name, row in taken.items()}
            texts = {name: " ".join(text) if isinstance(text, list) else text for name, text in texts.items()}
            project: list[Any] = []
            if asks:
                from kvbench.harness.projects import of_this_project

                project = of_this_project()  # before values are read: it may register workloads, too
            values = {row.name: row.parse(texts.get(row.name, row.default)) for row in OPTIONS}
            texts = {name: text for name, text in texts.items() if text != taken_by_name[name].default}
            command(values | {"project": project, "texts": texts}, **given)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        added = []
        for name, row in taken.items():
            default = [] if row.several else row.default
            added.append(inspect.Parameter(name, KEYWORD, default=default, annotation=_typed(row)))
        signature = inspect.Signature([*added, *(parameter.replace(kind=KEYWORD) for parameter in own)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        return run

    return decorate


def _typed(row: Option) -> Any:
    short = "folder" if row.name == "expected" else row.name  # `kvbench report --expected imagenet` names a workload
    text = row.help[0].upper() + row.help[1:]
    kind = list[str] if row.several else str
    return Annotated[kind, typer.Option(f"--{short}", row.flag, help=text, metavar=row.name.upper())]


def example(text: str) -> dict[str, Any]:
    """A line below a command's help."""
    return {"epilog": f"Example: kvbench {text}"}


def echo(text: str, *, err: bool = False) -> None:
    """Print text, whatever is in it: the one way in which a command writes to the terminal."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    typer.echo(plain(text).encode(encoding, "backslashreplace").decode(encoding), err=err)  # noqa: TID251


@app.callback()
def show(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every log record.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors alone, no progress.")] = False,
) -> None:
    """Show logs and progress on standard error."""
    bar.quiet = quiet
    context.with_resource(show_logs(bar, verbose - quiet))
    context.with_resource(log_warnings())
    context.call_on_close(bar.close)


@app.command(**example("init --study flowers"))
def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder.")] = Path(),
    study: Annotated[str, typer.Option(help="What the study is called.")] = "my-study",
) -> None:
    """Write benchmarks/ with a small study of one's own.

    Three students, one finding, and the tests; its comments say what to change. Overwrites nothing.
    """
    from kvbench.harness.starter import start

    for path in start(folder, study):
        echo(f"Written: {path}")
    runs = ["pytest benchmarks/ --kvbench-seeds 8 --kvbench-update-expected", "pytest benchmarks/"]
    steps = [f"cd {shlex.quote(str(folder))}", *runs] if folder != Path() else runs
    echo("Next, record the students' curves as the reference, then compare with it:")
    echo("\n".join(f"  {step}" for step in steps))


def _references(values: Mapping[str, Any], study: str = "") -> tuple[Path, Design]:
    """The folder of a study's references, and its design: of the one that an option names, else of ``study``."""
    from kvbench.findings.design import Design
    from kvbench.studies.registry import find, studies
    from kvbench.utils.files import check_name

    if study and not values["study"] and study not in studies(values["project"]):
        logger.warning("The study %s is not known here, so no finding is judged: run this in its project.", study)
        return values["expected"] / check_name(study, "The study of the file"), Design(study, {})
    row = find(values["study"] or study, values["project"])
    return values["expected"] / row.references, row.design


def _contents(values: Mapping[str, Any], saved: Path | None, expected: list[str] | None) -> Contents:
    """What there is to show of a saved run, or of a workload's reference."""
    from kvbench.reporting.contents import of_expected, of_saved
    from kvbench.results.saved import read

    if (saved is None) == (not expected):
        raise UserError("Name either a saved benchmark (FILE.json) or a workload (--expected WORKLOAD).")
    if expected:
        folder, design = _references(values)
        return of_expected(folder, expected[0], design)
    run = read(saved or Path())
    folder, design = _references(values, run.study)
    return of_saved(run, design, folder)


@app.command(**example("report --expected imagenet"))
@takes(("study", "expected"))
def report(
    values: dict[str, Any],
    saved: Saved = None,
    expected: Annotated[
        Optional[list[str]],
        typer.Option(help="Show a workload's reference instead; several are shown side by side.", metavar="WORKLOAD"),
    ] = None,
    finding: Annotated[Optional[str], typer.Option(help="Show the clauses of this finding alone.")] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write it as one page with figures to this file.")] = None,
    table: Annotated[
        Optional[str],
        typer.Option(help="Print one table alone: a metric's, such as train_loss, time, seconds or verdicts."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Of that table: markdown, csv or latex (booktabs).")
    ] = "markdown",
) -> None:
    """Print the tables and verdicts of a saved run or a reference."""
    from kvbench.reporting.report import report_expected, report_saved
    from kvbench.reporting.side_by_side import side_by_side
    from kvbench.results.saved import read

    if (saved is None) == (not expected):
        raise UserError("Name either a saved benchmark (kvbench report FILE.json) or a workload (--expected WORKLOAD).")
    if expected and len(expected) > 1:
        if finding or html or table:
            raise UserError("--finding, --html and --table show one workload: name one --expected.")
        folder, design = _references(values)
        echo(side_by_side(folder, expected, design))
    elif html or table:
        if finding or (html and table):
            raise UserError("--finding, --html and --table each show something of their own: give one of them.")
        contents = _contents(values, saved, expected)
        if html:
            from kvbench.reporting.html import page
            from kvbench.utils.files import atomic_write

            with atomic_write(html) as tmp:
                tmp.write_text(page(contents), encoding="utf-8")
            echo(str(html))
        else:
            echo(contents.table(table or "").formatted(form))
    elif expected:
        folder, design = _references(values)
        echo(report_expected(folder, expected[0], design, finding))
    else:
        run = read(saved or Path())
        echo(report_saved(run, _references(values, run.study)[1], finding))


Storage = Annotated[Path, typer.Option("--storage", help="Where --benchmark-save saves runs.")]


@app.command(**example("compare main expected/fractals@v1.2"))
@takes(("study", "expected"))
def compare(
    values: dict[str, Any],
    a: Annotated[str, typer.Argument(help="The baseline: a saved run or a reference.")],
    b: Annotated[str, typer.Argument(help="What is compared with it.")],
    form: Annotated[str, typer.Option("--format", help="What to print: text, markdown or json.")] = "text",
    html: Annotated[Optional[Path], typer.Option(help="Write it as one page with figures to this file, too.")] = None,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Take a run as the baseline that did not pass, or is incomplete.")
    ] = False,
    fail_on_seconds: Annotated[
        Optional[float],
        typer.Option(help="Seconds count as well: worse is surely more than so many times as long.", metavar="RATIO"),
    ] = None,
    storage: Storage = Path(".benchmarks"),
) -> None:
    """Say what moved between two runs or references, and which way.

    Losses, accuracies, agreement and verdicts, by the statistics that gate a run; seconds describe. A and B are each a
    file that pytest-benchmark saved, its number or name, a workload that has a reference, the folder of a reference, or
    either of these at a revision of git, such as fractals@v1.2. Exit status: 0 nothing moved for the worse, 1 something
    did, 2 they cannot be compared, 3 not settled.
    """
    from kvbench.reference.moves import moves
    from kvbench.reference.sides import find
    from kvbench.reporting.moves import formatted, page
    from kvbench.utils.files import atomic_write

    if fail_on_seconds is not None and not 1 <= fail_on_seconds < math.inf:
        raise UserError(f"Got --fail-on-seconds {fail_on_seconds:g}: valid is a ratio from 1, such as 1.25.")
    sides = find((a, b), functools.cache(functools.partial(_references, values)), storage)
    found = moves(*sides, allow_failed=allow_failed, slower=fail_on_seconds)
    echo(formatted(found, form))
    if html:
        with atomic_write(html) as tmp:
            tmp.write_text(page(found), encoding="utf-8")
        logger.info("Written: %s", html)
    raise typer.Exit(found.exit)


@app.command("history", **example("history --html history.html"))
@takes(("study", "expected"))
def timeline(
    values: dict[str, Any],
    folder: Annotated[Path, typer.Argument(help="Where --benchmark-save saves runs.")] = Path(".benchmarks"),
    html: Annotated[Optional[Path], typer.Option(help="Write it as one page with figures to this file, too.")] = None,
    csv: Annotated[Optional[Path], typer.Option(help="Write every number to this file, too.")] = None,
) -> None:
    """List the saved runs of a machine, and when what moved.

    Numbers, verdicts and seconds, by the statistics of kvbench compare: each run against the last before which nothing
    moved.
    """
    from kvbench.reporting import timeline
    from kvbench.utils.files import atomic_write

    found, skipped = timeline.read(folder, functools.cache(functools.partial(_references, values)))
    echo(timeline.terminal(found, skipped))
    for path, write in ((html, timeline.page), (csv, timeline.csv)):
        if path:
            with atomic_write(path) as tmp:
                tmp.write_text(write(found, skipped), encoding="utf-8")
            logger.info("Written: %s", path)


@app.command(**example("plot --expected fractals --output curves.svg"))
@takes(("study", "expected"))
def plot(
    values: dict[str, Any],
    saved: Saved = None,
    expected: Annotated[
        Optional[str], typer.Option(help="Plot a workload's reference instead.", metavar="WORKLOAD")
    ] = None,
    chart: Annotated[
        str, typer.Option(help="curves, or one figure of the page, such as val_loss, time-seconds or loss-accuracy.")
    ] = "curves",
    output: Annotated[Path, typer.Option(help="File to write: .svg, .png or .pdf.")] = Path("curves.svg"),
) -> None:
    """Plot loss and accuracy against epochs, or another chart.

    Mean and range over seeds; needs kvbench[plot].
    """
    from kvbench.reference.store import load
    from kvbench.reporting import figures
    from kvbench.reporting.charts import draw
    from kvbench.results.saved import read

    if (saved is None) == (expected is None):
        raise UserError("Name either a saved benchmark (kvbench plot FILE.json) or a workload (--expected WORKLOAD).")
    if expected:
        folder, design = _references(values)
        reference = load(folder, expected, design)
        numbers, workload = figures.Numbers(reference.histories, design, reference.costs), expected
    else:
        run = read(saved or Path())
        design, workload = _references(values, run.study)[1], run.workload
        numbers = figures.Numbers(run.histories, design, run.costs)
    chosen = figures.chart(numbers, chart)
    draw(chosen, output, f"{workload}: {numbers.seeds if chosen[0].id in figures.CURVES else chosen[0].title}")
    echo(str(output))


@app.command(**example("students --classes 200"))
@takes(("study",))
def students(
    values: dict[str, Any],
    names: Annotated[Optional[list[str]], typer.Argument(help="Which; all where none is named.")] = None,
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


OF_BANKS = [row.name for row in OPTIONS if row.decides_banks]
Part = Annotated[
    str,
    typer.Option(help="Do the I-th of N shares of the work, such as 1/8: for the I-th job of an array.", metavar="I/N"),
]


@app.command(**example("extract --workload folder --root data/flowers"))
@takes([*OF_BANKS, "engine"])
def extract(
    values: dict[str, Any],
    verify: Annotated[bool, typer.Option(help="Read banks that are there whole and compare all checksums.")] = False,
    part: Part = "",
) -> None:
    """Compute a workload's feature banks.

    One pass of the teacher over each split; an interrupted pass is resumed. Jobs that each do a part may run at once,
    on machines that share the cache, and again.
    """
    from kvbench.harness.engine import run
    from kvbench.harness.projects import experiment
    from kvbench.harness.setup import Settings
    from kvbench.utils.shares import Share

    share = Share.parse(part) if part else None
    chosen = experiment(values, values["project"])
    settings = Settings.of(values, chosen.images, verify=verify)
    if share:
        stores, _ = settings.stores(bar.show)
        counts = settings.fill(stores, share)
        bar.close()
        for split, store in stores.items():
            echo(f"{split}: {counts[split]:,} of {len(store.parts):,} part files are done, in {store.folder.path}")
        return
    if values["engine"] == "ray":
        run("extract", values["texts"], on_progress=bar.show)
    banks = settings.open_banks(bar.show)
    bar.close()
    for split, bank in (("train", banks.train), ("val", banks.val)):
        echo(
            f"{split}: {len(bank):,} images, taps {' '.join(map(str, bank.widths))} wide, {bank.classes:,} classes,"
            f" teacher's accuracy {bank.teacher_accuracy:.1%}, in {values['cache']}"
        )


@app.command(**example("train --part 1/8 --workload tiny-imagenet --seeds 10"))
@takes([*OF_BANKS, "seeds", "engine"], asks=False)
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
    if values["engine"] == "ray":
        run("train", values["texts"], on_progress=bar.show)
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
@takes([*OF_BANKS, "seeds"])
def sweep(
    values: dict[str, Any],
    finding: Annotated[Optional[list[str]], typer.Option(help="Map this finding alone; may be repeated.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for sweep.md, verdicts.csv and histories.csv.")] = None,
    chart: Annotated[Optional[Path], typer.Option(help="Picture to write: .svg, .png or .pdf.")] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write the maps as one page to this file, too.")] = None,
) -> None:
    """Map where findings hold.

    Trains and judges every combination of the values that --set gives; those of one field have commas between them.
    What is complete is kept in the cache, and an interrupted sweep goes on where it was.
    """
    from kvbench.harness.projects import chosen
    from kvbench.harness.sweep import sweep as train
    from kvbench.reporting.heat_maps import heat_maps_chart, need_chart
    from kvbench.studies.grid import Grid, read_grid
    from kvbench.utils.files import atomic_write, need_writable

    grid = Grid(*chosen(values, values["project"]), read_grid(values["set"]))
    if chart:
        need_chart(chart)
    for folder in filter(None, (out, chart and chart.parent, html and html.parent)):
        need_writable(folder)
    options = {name: values[name] for name in OF_BANKS if name not in {"study", "workload", "set"}}
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

        with atomic_write(html) as tmp:
            tmp.write_text(map_page(swept), encoding="utf-8")
        echo(str(html))


@expected_app.command("rejudge", **example("expected rejudge fractals"))
@takes(("study", "expected"))
def expected_rejudge(
    values: dict[str, Any],
    workloads: Annotated[Optional[list[str]], typer.Argument(help="Which; all in the folder if none is named.")] = None,
) -> None:
    """Judge recorded histories again, and write verdicts.csv.

    After a finding was added or changed; trains nothing.
    """
    from kvbench.reference.update import recorded, rejudge

    folder, design = _references(values)
    for workload in workloads or recorded(folder):
        echo(rejudge(folder, workload, design))


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


@app.command(**example("detect --fault wrong-tap --out detection.md"))
@takes(("study", "workload", "set", "root", "device", "cache", "expected"))
def detect(
    values: dict[str, Any],
    fault: Annotated[Optional[list[str]], typer.Option(help="Inject this fault alone; may be repeated.")] = None,
    clean_seeds: Annotated[str, typer.Option(help="Seeds of clean runs, none of the reference's.")] = "100:104",
    rounded: Annotated[int, typer.Option(min=0, help="Clean runs of the default seeds on other rounding.")] = 1,
    out: Annotated[Optional[Path], typer.Option(help="File for the page in markdown.")] = None,
) -> None:
    """Measure what a run detects, and how often it errs.

    Injects every fault of the catalogue, and replays clean runs for false alarms. Complete trainings are kept in the
    cache, and an interrupted measurement goes on where it was.
    """
    from kvbench.harness.options import parse_seeds
    from kvbench.harness.projects import experiment
    from kvbench.harness.setup import Settings
    from kvbench.mutation.faults import FAULTS
    from kvbench.mutation.faults import fault as find
    from kvbench.mutation.injector import FaultInjector
    from kvbench.mutation.replays import measure
    from kvbench.mutation.report import page, summary
    from kvbench.reference.store import load
    from kvbench.results import history
    from kvbench.utils.environment import environment
    from kvbench.utils.files import atomic_write, need_writable

    faults = [find(name) for name in fault] if fault else list(FAULTS.values())
    chosen = experiment(values, values["project"])
    seeds = parse_seeds(clean_seeds)
    settings = Settings.of(values, chosen.images)
    reference = load(values["expected"] / chosen.study.references, chosen.name, chosen.design)
    if again := sorted({*seeds} & {*history.seeds(reference.histories)}):
        raise UserError(f"Seed {again[0]} is the reference's; clean seeds must be new: choose --clean-seeds 100:104.")
    if out:
        need_writable(out.parent)
    injector = FaultInjector(chosen, settings, reference, tuple(range(chosen.images.seeds)))
    facts = environment(settings.device)
    command = f"kvbench detect --workload {chosen.workload.name}"
    command += f" --study {values['study']}" if values["study"] else ""
    command += "".join(f" --set {part}" for part in values["set"].split())
    command += "".join(f" --fault {name}" for name in fault or [])
    command += f" --clean-seeds {clean_seeds} --rounded {rounded}" if not fault else ""
    results: list[FaultResult] = []

    def keep(counted: list[FalseAlarms]) -> str:
        """Write the page with what there is so far: a run takes long and may be interrupted."""
        text = page(results, counted, injector, facts, command)
        if out:
            with atomic_write(out) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return text

    try:
        for result in injector.test_all(faults, bar.show):
            results.append(result)
            keep([])
        bar.close()
        counted = measure(injector, seeds, rounded) if not fault else []
    except (KeyboardInterrupt, SystemExit):
        logger.info("Stopped: complete trainings are in %s; the same command goes on.", injector.directory)
        raise
    text = keep(counted)
    echo(f"{summary(results)}\n{out}" if out else text)


@app.command(**example("alarms --runs 1000 --out false-alarms.md"))
@takes(("study", "expected", "cache"))
def alarms(
    values: dict[str, Any],
    runs: Annotated[int, typer.Option(min=0, help="Clean runs with new seeds.")] = 100,
    same: Annotated[int, typer.Option(min=0, help="Clean runs of recorded seeds, on other rounding.")] = 20,
    references: Annotated[int, typer.Option(min=1, help="References to which the runs are dealt out.")] = 10,
    judged: Annotated[int, typer.Option(min=0, help="Runs of findings whose truth is known, each way.")] = 200,
    splits: Annotated[int, typer.Option(min=0, help="Ways to hold out seeds of a recorded reference.")] = 20,
    expected: Annotated[
        str, typer.Option(help="The workload whose recorded seeds are held out, and margins permuted.")
    ] = DEFAULT,
    workers: Annotated[int, typer.Option(min=0, help="Processes side by side; 0: one a processor.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="File for the page in markdown.")] = None,
) -> None:
    """Measure how often a run errs.

    Trains clean runs of a small study and counts their false alarms, and judges findings whose truth is known. What is
    trained is kept in the cache; an interrupted measurement goes on where it was.
    """
    import torch

    from kvbench.mutation.alarms_report import page
    from kvbench.mutation.clean_runs import measure
    from kvbench.mutation.known_truth import RUN_SEEDS, count_all
    from kvbench.mutation.replays import count, held_out
    from kvbench.reference.store import load
    from kvbench.utils.environment import environment
    from kvbench.utils.files import atomic_write, need_writable

    if out:
        need_writable(out.parent)
    folder, design = _references(values)
    reference = load(folder, expected, design)
    outcomes = measure(values["cache"], runs, same, references, workers, bar.show)
    counted = count_all(judged, reference.judgements, workers, bar.show)
    bar.close()
    kind = f"{RUN_SEEDS} seeds of {expected}'s reference against the others"
    held = [count(kind, reference, held_out(reference, RUN_SEEDS, splits), independent=False)] if splits else []
    command = f"kvbench alarms --runs {runs} --same {same} --references {references} --judged {judged}"
    command += f" --splits {splits}" + (f" --expected {expected}" if expected != DEFAULT else "")
    text = page(outcomes, counted, held, environment(torch.device("cpu")), command)
    if out:
        with atomic_write(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    echo(text)


@app.command(**example("power --seeds 8 --loss 1.1"))
@takes(("study", "expected"))
def power(
    values: dict[str, Any],
    expected: Annotated[str, typer.Option(help="The workload whose reference tells the spread.")] = "fractals",
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds.")] = 4,
    loss: Annotated[float, typer.Option(help="Effect on a loss, as a factor above 1.")] = 1.05,
    share: Annotated[float, typer.Option(help="Effect on an accuracy or agreement.")] = 0.01,
    configuration: Annotated[Optional[list[str]], typer.Option(help="Only this one; may be repeated.")] = None,
) -> None:
    """Say how many seeds an effect needs, and what seeds can see.

    The spread is that of a reference.
    """
    from kvbench.reference.power import clauses_table, tolerances_table
    from kvbench.reference.store import load
    from kvbench.results import history
    from kvbench.utils.errors import unknown

    folder, design = _references(values)
    reference = load(folder, expected, design)
    names = history.configurations(reference.histories)
    for name in configuration or []:
        if name not in names:
            raise unknown("configuration", name, names)
    if not (1 < loss < math.inf and 0 < share < math.inf):
        raise UserError(f"Got --loss {loss:g} --share {share:g}: valid is a factor above 1 and a number above 0.")
    recorded = len(history.seeds(reference.histories))
    if recorded < 2:
        raise UserError(f"The reference of {expected} has one seed: its spread is not known.")
    echo(
        f"Tolerances: {recorded} reference seeds, a false alarm in at most 1% of runs, seen with a chance of 80%.\n\n"
        f"{tolerances_table(reference, seeds, loss, share, configuration or names)}\n"
    )
    if not configuration:
        echo(f"Clauses of the findings, likewise.\n\n{clauses_table(reference, seeds, loss, share)}")


Kinds = Annotated[
    Optional[list[str]],
    typer.Option("--kind", help="Of this kind alone: bank, checkpoint, sweep, training or images; may be repeated."),
]
Names = Annotated[
    Optional[list[str]], typer.Argument(help="Which, as the list names them; * stands for anything. All where none.")
]
Age = Annotated[str, typer.Option(help="Unused for so long: 90m, 12h, 30d, 2w; 0: any.")]


@cache_app.command("list", **example("cache list --kind bank"))
@takes(("cache",))
def cache_list(
    values: dict[str, Any],
    names: Names = None,
    kind: Kinds = None,
    older_than: Age = "0",
) -> None:
    """List what is kept for later runs.

    Feature banks, states of interrupted runs, results of sweeps and of kvbench train, what is known of image files.
    """
    from kvbench.harness.cache import look, read_age, table

    listing = look(values["cache"])
    echo(table(listing, listing.select(names or (), kind or (), read_age(older_than))))


@cache_app.command("clean", **example("cache clean --kind bank --older-than 30d --dry-run"))
@takes(("cache",))
def cache_clean(
    values: dict[str, Any],
    names: Names = None,
    kind: Kinds = None,
    older_than: Age = "1h",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be removed, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what is kept, after asking; a later run computes it again.

    Only kvbench's own files are removed, no link is followed, and what a running process writes stays.
    """
    from kvbench.harness.cache import look, read_age, remove, table
    from kvbench.utils.text import size

    listing = look(values["cache"])
    chosen = listing.select(names or (), kind or (), read_age(older_than))
    echo(table(listing, chosen))
    if dry_run or not chosen:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("Nothing is removed, as nobody can be asked here: repeat it with --yes, or with --dry-run.")
        if not typer.confirm("Remove all of these?"):
            return
    left = {entry.name: why for entry in chosen if (why := remove(values["cache"], entry))}
    echo(f"Removed: {size(sum(entry.size for entry in chosen if entry.name not in left))}")
    for name, why in left.items():
        logger.warning("%s is left, as %s.", name, why)


@app.command(**example("doctor --workload folder --root data/flowers"))
@takes([row.name for row in OPTIONS if row.decides_banks] + ["seeds", "expected"], asks=False)
def doctor(values: dict[str, Any]) -> None:
    """Say what a run here would use, and what is wrong.

    Versions, device, caches, study, reference, teacher, banks and checkpoints, for the options of a run; findings are
    marked with !. Nothing is computed or downloaded.
    """
    from kvbench.harness.doctor import Doctor
    from kvbench.utils.text import line

    problems = 0
    for remark in Doctor(values["texts"]).look():
        problems += remark.problem
        echo(f"{'!' * remark.problem or ' '} {remark.topic:<12}{line(remark.text)}")
    found = f"{problems} finding{'s' * (problems != 1)} marked !" if problems else "nothing that stands in the way"
    echo(f"\nThis is what a run here would use: {found}.")


def main() -> None:
    """Run the command line; a `UserError` is printed as one sentence, with exit code 2."""

    def end(_number: signal.Signals) -> NoReturn:
        sys.exit(SIGTERM_CODE)

    try:
        with on_signals(end, signal.SIGTERM):
            app()
    except UserError as error:
        echo(f"Error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(SIGINT_CODE)
