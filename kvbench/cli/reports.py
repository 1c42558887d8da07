"""The commands that show and compare what was recorded: saved runs and references."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from kvbench.cli import complete
from kvbench.cli.command import echo, example, folder_and_design, style, takes
from kvbench.utils.errors import UserError

if TYPE_CHECKING:
    from kvbench.reporting.contents import Contents

Saved = Annotated[
    Optional[Path],
    typer.Argument(help="A file that --benchmark-save or --benchmark-json wrote.", autocompletion=complete.files),
]
logger = logging.getLogger(__name__)
app = typer.Typer()
expected_app = typer.Typer(**style, help="Work on references, the histories that runs are compared with.",
                            epilog="Example: kvbench expected rejudge")  # fmt: skip


def _contents(values: Mapping[str, Any], saved: Path | None, expected: list[str] | None) -> Contents:
    """What there is to show of a saved run, or of a workload's reference."""
    from kvbench.reporting.contents import of_expected, of_saved
    from kvbench.results.saved import read

    if (saved is None) == (not expected):
        raise UserError("Name either a saved benchmark (FILE.json) or a workload (--expected WORKLOAD).")
    if expected:
        folder, design = folder_and_design(values)
        return of_expected(folder, expected[0], design)
    run = read(saved or Path())
    folder, design = folder_and_design(values, run.study)
    return of_saved(run, design, folder)


def _write(path: Path, text: str) -> None:
    """Write a page, and say where."""
    from kvbench.utils.files import write_text

    write_text(path, text)
    echo(str(path))


@app.command(**example("report --expected imagenet"))
@takes(("study", "expected"))
def report(
    values: dict[str, Any],
    saved: Saved = None,
    expected: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Show a workload's reference instead; several are shown side by side.",
            metavar="WORKLOAD",
            autocompletion=complete.references,
        ),
    ] = None,
    finding: Annotated[
        Optional[str],
        typer.Option(help="Show the clauses of this finding alone.", autocompletion=complete.findings),
    ] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write it as one page with figures to this file.")] = None,
    table: Annotated[
        Optional[str],
        typer.Option(
            help="Print one table alone: a metric's, such as train_loss, time, seconds, verdicts (of several --expected"
            " as well), clauses or tolerances.",
            autocompletion=complete.tables,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="Of that table: markdown, csv or latex (booktabs).", autocompletion=complete.forms
        ),
    ] = "markdown",
) -> None:
    """Print the tables and verdicts of a saved run or a reference."""
    if (finding is not None) + (html is not None) + (table is not None) > 1:
        raise UserError("--finding, --html and --table each show something of their own: give one of them.")
    if saved is None and expected and len(expected) > 1:
        from kvbench.reporting.side_by_side import side_by_side

        if finding or table not in {None, "verdicts"}:
            raise UserError("--finding and --table show one workload, but for --table verdicts: name one --expected.")
        folder, design = folder_and_design(values)
        together = side_by_side(folder, expected, design)
        if html:
            from kvbench.reporting.references_page import references_page

            _write(html, references_page(together))
        elif table:
            echo(together.verdicts.formatted(form))
        else:
            echo(together.markdown())
        return
    contents = _contents(values, saved, expected)
    if table is not None:
        echo(contents.table(table).formatted(form))
    elif finding is not None:
        echo(contents.finding(finding))
    elif html:
        from kvbench.reporting.html import page

        _write(html, page(contents))
    else:
        echo(contents.markdown())


Storage = Annotated[Path, typer.Option("--storage", help="Where --benchmark-save saves runs.")]


@app.command(**example("compare main expected/fractals@v1.2"))
@takes(("study", "expected"))
def compare(
    values: dict[str, Any],
    a: Annotated[str, typer.Argument(help="The baseline: a saved run or a reference.", autocompletion=complete.sides)],
    b: Annotated[str, typer.Argument(help="What is compared with it.", autocompletion=complete.sides)],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="What to print: text, markdown, json, or every number in one table as csv or latex (booktabs).",
            autocompletion=complete.reports,
        ),
    ] = "text",
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
    from kvbench.utils.files import write_text

    if fail_on_seconds is not None and not 1 <= fail_on_seconds < math.inf:
        raise UserError(f"Got --fail-on-seconds {fail_on_seconds:g}: valid is a ratio from 1, such as 1.25.")
    sides = find((a, b), functools.cache(functools.partial(folder_and_design, values)), storage)
    found = moves(*sides, allow_failed=allow_failed, slower=fail_on_seconds)
    echo(formatted(found, form))
    if html:
        write_text(html, page(found))
        logger.info("Written: %s", html)
    raise typer.Exit(found.exit)


@app.command("history", **example("history --html history.html"))
@takes(("study", "expected"))
def timeline(
    values: dict[str, Any],
    folder: Annotated[Path, typer.Argument(help="Where --benchmark-save saves runs.")] = Path(".benchmarks"),
    html: Annotated[Optional[Path], typer.Option(help="Write it as one page with figures to this file, too.")] = None,
    csv: Annotated[Optional[Path], typer.Option(help="Write every number and what moved to this file, too.")] = None,
) -> None:
    """List the saved runs of a machine, and when what moved.

    Outcomes, configurations, gates, numbers, verdicts and seconds, by the statistics of kvbench compare: each
    configuration and clause against the run in which it last moved, at first the first good run that has it.
    """
    from kvbench.reporting import timeline
    from kvbench.utils.files import write_text

    found, skipped = timeline.read(folder, functools.cache(functools.partial(folder_and_design, values)))
    echo(timeline.terminal(found, skipped))
    for path, write in ((html, timeline.page), (csv, timeline.csv)):
        if path:
            write_text(path, write(found, skipped))
            logger.info("Written: %s", path)


@app.command(**example("plot --expected fractals --output curves.svg"))
@takes(("study", "expected"))
def plot(
    values: dict[str, Any],
    saved: Saved = None,
    expected: Annotated[
        Optional[str],
        typer.Option(
            help="Plot a workload's reference instead.", metavar="WORKLOAD", autocompletion=complete.references
        ),
    ] = None,
    chart: Annotated[
        str,
        typer.Option(
            help="curves, or one figure of the page, such as val_loss, time-seconds or loss-accuracy.",
            autocompletion=complete.charts,
        ),
    ] = "curves",
    output: Annotated[Path, typer.Option(help="File to write: .svg, .png or .pdf.")] = Path("curves.svg"),
) -> None:
    """Plot loss and accuracy against epochs, or another chart.

    Mean and range over seeds, behind a saved run the reference; needs kvbench[plot]. SVG: grey on a transparent ground,
    for light and dark pages; PDF and PNG: black on white, fonts embedded as TrueType.
    """
    from kvbench.reporting.charts import draw
    from kvbench.reporting.figures import chart as figures_of
    from kvbench.reporting.figures import heading
    from kvbench.reporting.report import workload_of

    contents = _contents(values, saved, [expected] if expected else None)
    chosen = figures_of(contents.numbers, chart)
    draw(chosen, output, f"{workload_of(contents.facts)}: {heading(chosen, contents.numbers)}")
    echo(str(output))


@expected_app.command("rejudge", **example("expected rejudge fractals"))
@takes(("study", "expected"))
def expected_rejudge(
    values: dict[str, Any],
    workloads: Annotated[
        Optional[list[str]],
        typer.Argument(help="Which; all in the folder if none is named.", autocompletion=complete.references),
    ] = None,
) -> None:
    """Judge recorded histories again, and write verdicts.csv.

    After a finding was added or changed; trains nothing.
    """
    from kvbench.reference.update import recorded, rejudge

    folder, design = folder_and_design(values)
    for workload in workloads or recorded(folder):
        echo(rejudge(folder, workload, design))
