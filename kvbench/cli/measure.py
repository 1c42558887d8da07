"""The commands that measure kvbench itself: what a run detects, how often it errs, what seeds can see."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from kvbench.cli import complete
from kvbench.cli.command import bar, echo, example, folder_and_design, takes
from kvbench.utils.errors import UserError
from kvbench.workloads import DEFAULT

if TYPE_CHECKING:
    from kvbench.mutation.injector import FaultResult
    from kvbench.mutation.replays import FalseAlarms

logger = logging.getLogger(__name__)
app = typer.Typer()


@app.command(**example("detect --fault taps-swapped --out detection.md"))
@takes(("study", "workload", "set", "root", "device", "cache", "expected"))
def detect(
    values: dict[str, Any],
    fault: Annotated[
        Optional[list[str]],
        typer.Option(help="Inject this fault alone; may be repeated.", autocompletion=complete.faults),
    ] = None,
    clean_seeds: Annotated[
        str, typer.Option(help="Seeds of clean runs, none of the reference's; empty: those of one run, from 100.")
    ] = "",
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
    from kvbench.utils.files import need_writable, write_text

    faults = [find(name) for name in fault] if fault else list(FAULTS.values())
    chosen = experiment(values, values["project"])
    clean_seeds = clean_seeds or f"100:{100 + chosen.images.seeds}"
    seeds = parse_seeds(clean_seeds)
    settings = Settings.of(values, chosen.images)
    reference = load(values["expected"] / chosen.study.references, chosen.name, chosen.design)
    if again := sorted({*seeds} & {*history.seeds(reference.histories)}):
        raise UserError(f"Seed {again[0]} is the reference's; clean seeds must be new: choose others by --clean-seeds.")
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
            write_text(out, text)
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
        str,
        typer.Option(
            help="The workload whose recorded seeds are held out, and margins permuted.",
            autocompletion=complete.references,
        ),
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
    from kvbench.utils.files import need_writable, write_text

    if out:
        need_writable(out.parent)
    folder, design = folder_and_design(values)
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
        write_text(out, text)
    echo(text)


@app.command(**example("power --seeds 8 --loss 1.1"))
@takes(("study", "expected"))
def power(
    values: dict[str, Any],
    expected: Annotated[
        str,
        typer.Option(
            help="The workload whose reference tells the spread; empty: the study's first.",
            autocompletion=complete.references,
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds.")] = 4,
    loss: Annotated[float, typer.Option(help="Effect on a loss, as a factor above 1.")] = 1.05,
    share: Annotated[float, typer.Option(help="Effect on an accuracy or agreement.")] = 0.01,
    configuration: Annotated[
        Optional[list[str]],
        typer.Option(help="Only this one; may be repeated.", autocompletion=complete.configurations),
    ] = None,
) -> None:
    """Say how many seeds an effect needs, and what seeds can see.

    The spread is that of a reference.
    """
    from kvbench.reference.power import clauses_table, tolerances_table
    from kvbench.reference.store import load
    from kvbench.results import history
    from kvbench.utils.errors import unknown

    folder, design = folder_and_design(values)
    expected = expected or next(iter(design.workloads), DEFAULT)
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
