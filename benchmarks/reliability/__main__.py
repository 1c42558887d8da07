"""Tries every fault and prints, or writes, the table of docs/reliability.md."""

from __future__ import annotations

import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer

from benchmarks.reliability import damages, interruptions
from benchmarks.reliability.laboratory import Laboratory, Result
from kvbench.utils.environment import environment
from kvbench.utils.errors import unknown
from kvbench.utils.text import item, markdown_table

ABOUT = """\
A small project (the suite on 640 generated images, 14 configurations, 2 seeds, 3 epochs) runs in its own process. A
fault strikes at a random moment or place; then the same command runs again, undisturbed. *Survived*: it ended in the
undisturbed run's histories, digit by digit, and in its report, apart from seconds and dates. *Where*: the stage in
which the fault struck, judged by the files that were there, or what it struck. A run may be killed several times
before it is allowed to finish."""
FAULTS: dict[str, tuple[Callable[[Laboratory, int], Result], int]] = {  # and tries of the long form
    "kills": (interruptions.kills, 200),
    "kills-at-files": (interruptions.kills_at_files, 30),
    "signals": (interruptions.signals, 20),
    "jumping-clock": (interruptions.jumping_clock, 5),
    "two-at-once": (interruptions.two_at_once, 10),
    "flipped-bits": (damages.flipped_bits, 40),
    "truncated": (damages.truncated, 20),
    "failing-files": (damages.failing_files, 36),
    "full-disk": (damages.full_disk, 10),
    "little-memory": (damages.little_memory, 10),
}


def page(results: Sequence[Result], command: str) -> str:
    """The page of docs/reliability.md."""
    facts = environment(torch.device("cpu"))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows, places = [], []
    for result in results:
        where = ", ".join(f"{name} {count}" for name, count in result.where.most_common())
        lost = str(result.tries - result.survived) if result.tries else "-"
        rows.append([result.fault, str(result.tries), str(result.survived), lost])
        places.append(item(f"{result.fault}: {'; '.join(filter(None, [where, result.note]))}"))
    wrong = [item(f"{result.fault}: {text}") for result in results for text in result.lost]
    return "\n\n".join(
        [
            "# What is lost when a run is disturbed",
            textwrap.fill(f"Measured by `{command}` on {facts['date']}, {facts['hardware']}, {versions}.", 120),
            ABOUT,
            markdown_table(["fault", "tries", "survived", "lost"], rows),
            "Where:",
            "\n".join(places),
            *([] if not wrong else ["What went wrong:", "\n".join(wrong)]),
        ]
    )


def main(
    faults: Annotated[Optional[list[str]], typer.Argument(help=f"Which: {', '.join(FAULTS)}; all if none.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="Tries, as a share of the long form's.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the moments and places.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="File for the page; else it is printed.")] = None,
) -> None:
    """Try faults on a small project and tell what is lost."""
    chosen = faults or list(FAULTS)
    for name in chosen:
        if name not in FAULTS:
            typer.echo(f"Error: {unknown('fault', name, FAULTS)}", err=True)
            raise typer.Exit(2)
    folder = Path(tempfile.mkdtemp(prefix="kvbench-"))
    try:
        laboratory = Laboratory(folder, seed)
        typer.echo(f"an undisturbed run takes {laboratory.seconds:.1f} s", err=True)
        results: list[Result] = []
        for name in chosen:
            trial, tries = FAULTS[name]
            latest = trial(laboratory, max(1, round(tries * scale)))
            results.append(latest)
            typer.echo(f"{latest.fault}: {latest.tries} tries, {latest.survived} survived", err=True)
            for text in latest.lost:
                typer.echo(f"  {text}", err=True)
            words = ["python -m benchmarks.reliability", *(faults or [])]
            if scale != 1:
                words.append(f"--scale {scale:g}")
            if seed != 0:
                words.append(f"--seed {seed}")
            if out:
                out.write_text(page(results, " ".join(words)) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not out:
        typer.echo(page(results, " ".join(words)))
    if any(result.lost for result in results):
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
