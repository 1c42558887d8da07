"""What several commands take: options under pytest's names and their own, and the settings that they make."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from kvbench.utils.text import plain

if TYPE_CHECKING:
    from kvbench.harness.setup import Settings

# Every option of pytest's is taken under its name there, too: sentences that name one are then true everywhere.
WorkloadOption = Annotated[
    str, typer.Option("--workload", "--kvbench-workload", help="fractals, tiny-imagenet, imagenet or folder")
]
RootOption = Annotated[
    Optional[Path], typer.Option("--root", "--kvbench-root", help="Folder with the workload's images.")
]
DeviceOption = Annotated[str, typer.Option("--device", "--kvbench-device", help="auto, cpu, cuda, cuda:1, mps or xpu")]
CacheOption = Annotated[Path, typer.Option("--cache", "--kvbench-cache", help="Folder of feature banks.")]
SizeOption = Annotated[
    str, typer.Option("--size", "--kvbench-size", help="Side of the images in pixels, instead of the workload's.")
]
PoolingOption = Annotated[str, typer.Option("--pooling", "--kvbench-pooling", help="global or pyramid")]
PrecisionOption = Annotated[str, typer.Option("--precision", "--kvbench-precision", help="float32 or bfloat16")]
TapsOption = Annotated[
    str,
    typer.Option(
        "--taps", "--kvbench-taps", help="Module paths, shallow to deep, with commas between; axes as features.5@BHWC."
    ),
]
TeacherOption = Annotated[
    str, typer.Option("--teacher", "--kvbench-teacher", help="A torchvision classifier instead of the workload's.")
]
CheckpointOption = Annotated[
    Optional[Path], typer.Option("--checkpoint", "--kvbench-checkpoint", help="The teacher's weights: a state dict.")
]
UnreadableOption = Annotated[
    str, typer.Option("--unreadable", "--kvbench-unreadable", help="Image files that cannot be read: stop or skip")
]
ExpectedFolderOption = Annotated[
    Path, typer.Option("--folder", "--kvbench-expected", help="Folder of references, with one folder a workload.")
]


def tell(text: str, *, err: bool = False) -> None:
    """Print text, whatever is in it: the one way in which a command writes to the terminal."""
    stream = sys.stderr if err else sys.stdout
    said = plain(text).encode(stream.encoding or "utf-8", "backslashreplace").decode(stream.encoding or "utf-8")
    typer.echo(said, err=err)  # noqa: TID251


def settings(**texts: str | Path | None) -> Settings:
    """Make settings of options, given by their names in the OPTIONS table; raises `UserError` where one is invalid."""
    from kvbench.harness.options import OPTIONS
    from kvbench.harness.setup import Settings

    given = {name: str(text) for name, text in texts.items() if text is not None}
    return Settings.of({row.name: row.parse(given.get(row.name, row.default)) for row in OPTIONS})
