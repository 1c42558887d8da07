"""The command: ``python -m benchmarks.performance --out docs/performance.md``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from benchmarks.performance.cold import cold
from benchmarks.performance.contest import contest
from benchmarks.performance.extraction import extraction
from benchmarks.performance.material import CPU, SCALES, Scale
from benchmarks.performance.opening import opening
from benchmarks.performance.page import page
from benchmarks.performance.roofline import roofline, seeds_together
from benchmarks.performance.sharing import sharing
from benchmarks.performance.stacked import stacked
from kvbench.utils.environment import environment
from kvbench.utils.errors import UserError, unknown
from kvbench.utils.files import write_text

PARTS: dict[str, Callable[[Scale], Any]] = {
    "contest": contest,
    "cold": cold,
    "roofline": roofline,
    "extraction": extraction,
    "seeds": seeds_together,
    "stacked": stacked,
    "sharing": sharing,
    "opening": opening,
}
log = logging.getLogger(__name__)


def measure(names: Sequence[str], scale: Scale, path: Path) -> dict[str, Any]:
    """Measure parts and keep each in the JSON file ``path`` as soon as it is done; returns all that the file holds.

    Raises:
        UserError: a part is not known, or the file holds results of another scale.
    """
    for name in names:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    results: dict[str, Any] = read(path) if path.exists() else {"scale": scale.name, "parts": {}}
    if results["scale"] != scale.name:
        raise UserError(f"{path} holds results of the scale {results['scale']}: remove it, or name another --results.")
    results["environment"] = environment(CPU)
    for name in names:
        log.info("%s ...", name)
        start = time.perf_counter()
        result = PARTS[name](scale)
        seconds = time.perf_counter() - start
        results["parts"][name] = {"seconds": seconds, "result": result}
        log.info("%s: %.0f s", name, seconds)
        write_text(path, json.dumps(results, indent=1))
    return results


def read(path: Path) -> dict[str, Any]:
    """Read the file of results; raises `UserError` where it is missing or something else."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not {"scale", "parts"} <= results.keys():
            raise ValueError("scale or parts are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no file of results ({error}): measure first, or remove it.") from error
    return dict(results)


def command(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/performance.md"),
    results: Annotated[Path, typer.Option(help="JSON file that keeps the results of each part.")] = Path(
        ".kvbench/performance.json"
    ),
    parts: Annotated[Optional[str], typer.Option(help=f"Measure only these parts: {','.join(PARTS)}.")] = None,
    scale: Annotated[str, typer.Option(help="full, or quick to see that everything runs.")] = "full",
    only_page: Annotated[bool, typer.Option("--only-page", help="Measure nothing, write the page again.")] = False,
) -> None:
    """Measure kvbench against its peers and the machine, and write a page about it."""
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    names = parts.split(",") if parts else [*PARTS]
    text = page(read(results) if only_page else measure(names, SCALES[scale], results))
    write_text(out, text)
    typer.echo(text)


def main() -> None:
    """Run the command; a `UserError` ends it with one sentence and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        typer.run(command)
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
