"""A small teacher and its banks, for tests and for processes that tests start.

As a program, ``python -m tests.support.banks CACHE COUNT PRECISION [ACT AFTER]`` opens the tiny bank in parts of 128
rows and prints what is logged. ACT is ``kill`` or ``wait`` (for a line) after AFTER images, or a function of `os` in
whose AFTERth call it kills itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kvbench.core.bank import FeatureBank
from kvbench.core.hooks import LOOKS
from kvbench.features import fill, store
from kvbench.features.extract import extract
from kvbench.features.spec import BankSettings
from kvbench.features.store import Store
from kvbench.features.teacher import Teacher, frozen
from kvbench.utils.progress import OnProgress, Progress, ignore
from tests.support import ROOT

CPU = torch.device("cpu")
TEN = tuple(f"ifs{k:04d}" for k in range(10))
ROWS = 128  # of a small part


class Dots:
    """Images of 32 pixels that are noise, a function of their index: quicker than any that are drawn."""

    classes = TEN
    mtime_digest = ""

    def __init__(self, count: int, seed: int = 0):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        drawn = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(self.seed + i)) for i in indices]
        return torch.stack(drawn), torch.tensor(indices) % 10

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"images": "dots", "count": self.count, "seed": self.seed}


class TinyNet(nn.Module):
    """Two maps and logits, small enough to compute again by hand; counts its passes."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6, classes)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) > max(LOOKS)  # not those that find out how the taps' outputs are laid out
        out: Tensor = self.fc(self.second(self.first(x)).mean((2, 3)))
        return out


def tiny_teacher(classes: int = 10, names: tuple[str, ...] | None = TEN) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return frozen("tiny", TinyNet(classes), names)


def tiny_settings(count: int = 150, **changes: Any) -> BankSettings:
    settings = BankSettings(Dots(count), tiny_teacher(), ("first", "second"))
    return replace(settings, **changes)


def open_bank(
    settings: BankSettings,
    cache: Path,
    name: str,
    device: torch.device,
    on_progress: OnProgress = ignore,
    *,
    fresh: bool = False,
    verify: bool = False,
) -> FeatureBank:
    return fill.open_bank(Store(settings, cache, name, verify=verify), device, on_progress, fresh=fresh)


def part_of(settings: BankSettings, cache: Path, part: int = 0) -> Path:
    """A part of a bank called a."""
    return settings.path(cache, "a") / f"part-{part:05d}.safetensors"


def passes(settings: BankSettings) -> int:
    """How often the settings' teacher has been called."""
    net = settings.teacher.module
    assert isinstance(net, TinyNet)
    return net.passes


def in_memory(settings: BankSettings) -> FeatureBank:
    """What one undisturbed pass gives."""
    batches = list(extract(settings, CPU, range(len(settings.images))))
    whole = {name: torch.cat([one[name] for one in batches]) for name in batches[0]}
    taps = tuple(whole[f"tap{i}"] for i in range(len(settings.taps)))
    return FeatureBank(taps, whole["logits"], whole["labels"])


def assert_equal(one: FeatureBank, other: FeatureBank) -> None:
    assert len(one.taps) == len(other.taps)
    pairs = zip((*one.taps, one.logits, one.labels), (*other.taps, other.logits, other.labels), strict=True)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def content(folder: Path) -> dict[str, str]:
    """Checksums of the parts of the one bank in a folder."""
    (bank,) = [path for path in folder.iterdir() if path.is_dir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(bank.glob("part-*"))}


def sealed(facts: dict[str, Any]) -> str:
    """A manifest of these facts that has the checksum which fits, as a stranger could make it."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    return json.dumps({**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()})


def flip(path: Path, at: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int, after: int) -> None:
    """Let a function of `os` fail with an error number after some calls."""
    works, calls = getattr(os, name), iter(range(10**6))

    def failing(*arguments: Any) -> Any:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return works(*arguments)

    monkeypatch.setattr(os, name, failing)


def left(folder: Path) -> list[str]:
    """The files in and below a folder: ``manifest`` and the numbers of parts, or whole names."""
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    return [re.sub(r"^part-0*(\d+)\.safetensors$|\.json$", r"\1", name) for name in names]


def other_process(cache: Path, count: int, *arguments: object) -> subprocess.Popen[str]:
    """Start this file as a program."""
    command = [sys.executable, "-m", "tests.support.banks", str(cache), str(count), *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Callable[[str], object]]:
    """A file system of a size in ``folder``, and a function that mounts it again with other options; skips without."""
    folder.mkdir(exist_ok=True)

    def mount(options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode
        except OSError:
            return 1

    if mount(f"size={size}"):
        pytest.skip("file systems cannot be mounted here")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A block in which the system lets no file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _main(cache: str, count: str, precision: str = "float32", act: str = "", after: str = "0") -> None:
    torch.set_num_threads(1)
    store.ROWS = ROWS
    if act and act not in {"kill", "wait"}:
        before, calls = getattr(os, act), iter(range(1, 1000))

        def last(*arguments: Any) -> Any:
            if next(calls) == int(after):
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*arguments)

        setattr(os, act, last)
    waited = False
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def act_after(progress: Progress) -> None:
        nonlocal waited
        if act == "kill" and progress.done >= int(after):
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "wait" and progress.done >= int(after) and not waited:
            waited = True
            print("waiting", flush=True)
            sys.stdin.readline()

    settings = tiny_settings(int(count), precision=precision)
    made = open_bank(settings, Path(cache), "a", CPU, act_after)
    print(f"{len(made)} rows in {passes(settings)} passes", flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
