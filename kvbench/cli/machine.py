"""The commands about this machine: what a run would use here, and what is kept for later runs."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any, Optional

import typer

from kvbench.cli import complete
from kvbench.cli.command import OF_BANKS, echo, example, style, takes
from kvbench.utils.errors import UserError

logger = logging.getLogger(__name__)
app = typer.Typer()
cache_app = typer.Typer(**style, help="Look at what is kept for later runs, and remove it.",
                        epilog="Example: kvbench cache list")  # fmt: skip


@app.command(**example("doctor --workload folder --root data/flowers"))
@takes([*OF_BANKS, "seeds", "expected"], asks=False)
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


Kinds = Annotated[
    Optional[list[str]],
    typer.Option(
        "--kind",
        help="Of this kind alone: bank, checkpoint, sweep, training or images; may be repeated.",
        autocompletion=complete.kinds,
    ),
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
