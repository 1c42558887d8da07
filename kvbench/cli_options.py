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
PoolingOption = Annotated[str, typer.Option("--pooling", "--kvbench-pooling", help="global or pyramid")]
PrecisionOption = Annotated[str, typer.Option("--precision", "--kvbench-precision", help="float32 or bfloat16")]
TapsOption = Annotated[
    str, typer.Option("--taps", "--kvbench-taps", help="Module paths, shallow to deep, with commas between.")
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


def settings(
    workload: str,
    device: str,
    cache: Path,
    root: Path | None,
    pooling: str,
    taps: str,
    arch: str,
    checkpoint: Path | None,
    unreadable: str = "stop",
    precision: str = "float32",
) -> Settings:
    """Make settings of options; raises `UserError` where one makes no sense."""
    from kvbench.harness.options import UNREADABLE, one_of, parse_taps
    from kvbench.harness.setup import Settings, resolve_device
    from kvbench.workloads import workload as find

    row = find(workload)
    return Settings(
        row,
        resolve_device(device),
        cache,
        root,
        pooling,
        parse_taps(taps),
        arch,
        checkpoint,
        one_of("way with unreadable images", UNREADABLE)(unreadable),
        precision,
    )
