"""The command that starts a project."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.command import echo, example

app = typer.Typer()


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
