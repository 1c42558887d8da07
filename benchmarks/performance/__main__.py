"""The command: ``python -m benchmarks.performance --out docs/performance.md``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from benchmarks.performance.growth import plot
from benchmarks.performance.page import page
from benchmarks.performance.parts import PARTS, measure, read
from benchmarks.performance.scale import SCALES
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import write_whole


def command(
    out: Annotated[Path, typer.Option(help="The page to write; the plot goes beside it.")] = Path(
        "docs/performance.md"
    ),
    results: Annotated[Path, typer.Option(help="JSON file that keeps the parts' results.")] = Path(
        ".kvbench/performance.json"
    ),
    parts: Annotated[Optional[str], typer.Option(help=f"Measure these alone: {','.join(PARTS)}.")] = None,
    scale: Annotated[str, typer.Option(help="full, or quick to see that everything runs.")] = "full",
    only_page: Annotated[bool, typer.Option("--only-page", help="Measure nothing, write the page again.")] = False,
) -> None:
    """Measure kvbench against its peers and the machine, and write a page about it."""
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    names = parts.split(",") if parts else [*PARTS]
    say = lambda text: typer.echo(text, err=True)  # noqa: E731
    made = read(results) if only_page else measure(names, SCALES[scale], results, say)
    picture = ""
    if "growth" in made["parts"] and find_spec("matplotlib"):
        picture = f"{out.stem}-growth.svg"
        out.parent.mkdir(parents=True, exist_ok=True)
        plot(made["parts"]["growth"]["result"], out.parent / picture)
    text = page(made, picture)
    with write_whole(out) as aside:
        aside.write_text(text, encoding="utf-8")
    typer.echo(text)


def main() -> None:
    """Run the command; a `UserError` is told in its sentence, with exit code 2."""
    try:
        typer.run(command)
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
