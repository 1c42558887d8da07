"""The commands that measure kvbench itself: what a run notices, and what seeds can see."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from kvbench.cli_options import (
    CacheOption,
    DeviceOption,
    ExpectedFolderOption,
    RootOption,
    WorkloadOption,
    settings,
    tell,
)
from kvbench.utils.errors import UserError

if TYPE_CHECKING:
    from kvbench.mutation.injector import FaultResult
    from kvbench.mutation.replays import FalseAlarms

logger = logging.getLogger(__name__)


def detect(
    workload: WorkloadOption = "fractals",
    root: RootOption = None,
    device: DeviceOption = "auto",
    cache: CacheOption = Path(".kvbench"),
    folder: ExpectedFolderOption = Path("expected"),
    fault: Annotated[Optional[list[str]], typer.Option(help="Inject this fault alone; may be repeated.")] = None,
    clean_seeds: Annotated[str, typer.Option(help="Seeds of clean runs, none of the reference's.")] = "100:104",
    rounded: Annotated[int, typer.Option(min=0, help="Clean runs of the default seeds on other rounding.")] = 1,
    out: Annotated[Optional[Path], typer.Option(help="File for the page in markdown.")] = None,
) -> None:
    """Measure what a run detects: inject every fault of the catalogue, and replay clean runs for false alarms."""
    from kvbench.harness.options import parse_seeds
    from kvbench.mutation.faults import FAULTS
    from kvbench.mutation.faults import fault as find
    from kvbench.mutation.injector import FaultInjector
    from kvbench.mutation.replays import measure
    from kvbench.mutation.report import page, summary
    from kvbench.reference.store import load
    from kvbench.results import history
    from kvbench.utils.environment import environment
    from kvbench.utils.files import need_writable, write_whole

    chosen = [find(name) for name in fault] if fault else list(FAULTS.values())
    seeds = parse_seeds(clean_seeds)
    made = settings(workload=workload, device=device, cache=cache, root=root)
    reference = load(folder, workload)
    if again := sorted({*seeds} & {*history.seeds(reference.histories)}):
        raise UserError(f"Seed {again[0]} is the reference's; clean seeds must be new: choose --clean-seeds 100:104.")
    if out:
        need_writable(out.parent)
    injector = FaultInjector(made, reference, tuple(range(made.workload.seeds)))
    facts = environment(made.device)
    command = f"kvbench detect --workload {workload}" + "".join(f" --fault {name}" for name in fault or [])
    command += f" --clean-seeds {clean_seeds} --rounded {rounded}" if not fault else ""
    results: list[FaultResult] = []

    def keep(counted: list[FalseAlarms]) -> str:
        """Write the page with what there is so far: a run takes long and may be interrupted."""
        told = page(results, counted, injector, facts, command)
        if out:
            with write_whole(out) as aside:
                aside.write_text(told, encoding="utf-8")
        return told

    for number, row in enumerate(chosen, 1):
        results.append(injector.test(row))
        verdict = "detected" if results[-1].detected else "missed" if results[-1].changed else "changes nothing"
        logger.info("[%d/%d] %s: %s", number, len(chosen), row.id, verdict)
        keep([])
    counted = measure(injector, seeds, rounded) if not fault else []
    told = keep(counted)
    tell(f"{summary(results)}\n{out}" if out else told)


def power(
    expected: Annotated[str, typer.Option(help="The workload whose reference tells the spread.")] = "fractals",
    folder: ExpectedFolderOption = Path("expected"),
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds.")] = 4,
    loss: Annotated[float, typer.Option(help="Effect on a loss, as a factor above 1.")] = 1.05,
    share: Annotated[float, typer.Option(help="Effect on an accuracy or agreement.")] = 0.01,
    configuration: Annotated[Optional[list[str]], typer.Option(help="Only this one; may be repeated.")] = None,
) -> None:
    """Say how many seeds an effect of a size needs, and what a number of seeds can see, from a reference's spread."""
    from kvbench.reference.power import clauses_table, tolerances_table
    from kvbench.reference.store import load
    from kvbench.results import history
    from kvbench.utils.errors import unknown

    reference = load(folder, expected)
    names = history.configurations(reference.histories)
    for name in configuration or []:
        if name not in names:
            raise unknown("configuration", name, names)
    if loss <= 1 or share <= 0:
        raise UserError(f"Got --loss {loss:g} --share {share:g}: valid is a factor above 1 and a number above 0.")
    recorded = len(history.seeds(reference.histories))
    if recorded < 2:
        raise UserError(f"The reference of {expected} has one seed: its spread is not known.")
    tell(
        f"Tolerances: {recorded} reference seeds, a false alarm in at most 1% of runs, seen with a chance of 80%.\n\n"
        f"{tolerances_table(reference, seeds, loss, share, configuration or names)}\n"
    )
    if not configuration:
        tell(f"Clauses of the findings, likewise.\n\n{clauses_table(reference, seeds, loss, share)}")
