"""The commands that are not a test run.

Each imports what it needs when it runs, so that ``--help`` and ``report`` stay quick.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated, NoReturn

import typer

from kvbench.cli import init, machine, measure, reports, work
from kvbench.cli.command import bar, echo, style
from kvbench.utils.errors import UserError
from kvbench.utils.logs import log_warnings, show_logs
from kvbench.utils.signals import SIGINT_CODE, SIGTERM_CODE, on_signals

app = typer.Typer(
    **style,
    pretty_exceptions_enable=False,
    help="Keep the findings of a distillation ablation true. The main job is a test run: pytest benchmarks/",
    epilog="Example: kvbench init my-ablation",
)
for part in (init, reports, work, measure, machine):
    app.add_typer(part.app)
app.add_typer(work.teacher_app, name="teacher")
app.add_typer(machine.cache_app, name="cache")
app.add_typer(reports.expected_app, name="expected")


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


def main() -> None:
    """Run the command line; a `UserError` is printed as one sentence, with exit code 2."""

    def end(_number: signal.Signals) -> NoReturn:
        sys.exit(SIGTERM_CODE)

    try:
        with on_signals(end, signal.SIGTERM):
            app(prog_name="kvbench")
    except UserError as error:
        echo(f"Error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(SIGINT_CODE)
