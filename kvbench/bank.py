"""The feature bank: one teacher pass over one split, left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kvbench.data import Images, batches
from kvbench.errors import UserError
from kvbench.files import need_writable, write_whole
from kvbench.hooks import capture, pool
from kvbench.teacher import Teacher

FORMAT = 1  # raise it when a bank's layout changes
BATCH = 128  # images a teacher pass; more measured no faster on two cores
ROUNDING = 2.0**-20  # relative: 8 units in the last place of float32, more than platforms' passes differ by
Tick = Callable[[int], object]  # told how many images have gone through


@dataclass(frozen=True)
class FeatureBank:
    """What students see of a split: ``taps`` (N, D) each, shallow to deep, ``logits`` (N, K), ``labels`` (N,)."""

    taps: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each tap, shallow to deep."""
        return tuple(tap.shape[1] for tap in self.taps)

    @property
    def classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's own top-1 accuracy, the ceiling of its students'."""
        return float((self.logits.argmax(1) == self.labels).float().mean())

    def to(self, device: torch.device) -> FeatureBank:
        """Move all tensors; those already there stay memory-mapped."""
        return FeatureBank(tuple(t.to(device) for t in self.taps), self.logits.to(device), self.labels.to(device))

    def rounded_otherwise(self, seed: int = 0) -> FeatureBank:
        """A copy as another platform might have left it: each feature and logit times 1 + `ROUNDING` * N(0, 1)."""
        noise = torch.Generator().manual_seed(seed)

        def moved(x: Tensor) -> Tensor:
            return x * (1 + ROUNDING * torch.randn(x.shape, generator=noise)).to(x.device)

        return FeatureBank(tuple(moved(tap) for tap in self.taps), moved(self.logits), self.labels)

    def batch(self, rows: Tensor | slice) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gather rows: tap features (B, D) each, teacher logits (B, K), labels (B,)."""
        return [tap[rows] for tap in self.taps], self.logits[rows], self.labels[rows]


@dataclass(frozen=True)
class BankSettings:
    """All that decides a bank: images, teacher, taps, pooling, and (in `fingerprint`) the precision of the pass."""

    images: Images
    teacher: Teacher
    taps: tuple[str, ...]
    pooling: str = "global"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a bank is keyed by, JSON-serialisable."""
        return {
            "format": FORMAT,
            "data": self.images.fingerprint,
            "files": self.images.stamp,
            "teacher": self.teacher.fingerprint,
            "taps": list(self.taps),
            "pooling": self.pooling,
            "precision": "float32",
        }

    def path(self, cache: Path, name: str) -> Path:
        """Where the bank lies under ``cache``: ``name`` and a digest of the fingerprint."""
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()
        return cache / f"{name}-{digest[:16]}.safetensors"


@torch.no_grad()  # not inference_mode: a student's backward pass saves the features
def extract(settings: BankSettings, device: torch.device, tick: Tick = lambda _: None) -> FeatureBank:
    """Pass every image through the teacher once.

    Raises:
        UserError: the classes of the images are not the teacher's, a tap does not exist, or an output is not finite.
    """
    images, teacher = settings.images, settings.teacher
    if teacher.classes is not None and teacher.classes != images.classes:
        odd = sorted(set(images.classes) ^ set(teacher.classes))
        raise UserError(
            f"The data's {len(images.classes)} classes are not the {len(teacher.classes)} that the teacher "
            f"{teacher.name} was trained on; only on one side: {', '.join(odd[:5]) or 'none (the order differs)'}."
        )
    module = teacher.module.to(memory_format=torch.channels_last).to(device)
    columns: list[Tensor] = []  # taps, logits, labels; all rows, filled batch by batch
    done = 0
    with capture(module, settings.taps) as captured, torch.backends.cudnn.flags(allow_tf32=False):
        for x, labels in batches(images, BATCH):
            logits = module(x.to(device, memory_format=torch.channels_last))
            if logits.shape[1] != len(images.classes):
                raise UserError(
                    f"The data has {len(images.classes)} classes, the teacher {teacher.name} {logits.shape[1]} outputs:"
                    " give a checkpoint trained on this data with --kvbench-checkpoint."
                )
            if not torch.isfinite(logits).all():
                raise UserError(
                    f"The teacher {teacher.name} gives logits that are not finite: is its checkpoint damaged?"
                )
            batch = [*pool([captured[tap] for tap in settings.taps], settings.pooling), logits, labels]
            columns = columns or [torch.empty((len(images), *t.shape[1:]), dtype=t.dtype) for t in batch]
            for column, rows in zip(columns, batch, strict=True):
                column[done : done + len(labels)] = rows
            done += len(labels)
            tick(len(labels))
    *taps, logits, labels = columns
    return FeatureBank(tuple(taps), logits, labels)


def save(bank: FeatureBank, path: Path, fingerprint: dict[str, Any]) -> None:
    """Write ``bank`` with its ``fingerprint``; the file appears whole or not at all."""
    tensors = {f"tap{i}": tap for i, tap in enumerate(bank.taps)}
    with write_whole(path) as aside:
        metadata = {"fingerprint": json.dumps(fingerprint, sort_keys=True)}
        save_file({**tensors, "logits": bank.logits, "labels": bank.labels}, aside, metadata)


def load(path: Path, fingerprint: dict[str, Any]) -> FeatureBank:
    """Open a bank, memory-mapped.

    Raises:
        UserError: the file is no bank, or was made by settings other than ``fingerprint``; tells which differ.
    """
    try:
        with safe_open(path, "pt") as file:
            made = json.loads((file.metadata() or {}).get("fingerprint", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no readable feature bank ({error}): remove it, and it is made again.") from error
    differing = [key for key in sorted({*made, *fingerprint}) if made.get(key) != fingerprint.get(key)]
    if differing:
        raise UserError(
            f"{path} was made with other settings ({', '.join(differing)}): remove it, and it is made again."
        )
    try:
        taps = tuple(tensors[f"tap{i}"] for i in range(len(fingerprint["taps"])))
        return FeatureBank(taps, tensors["logits"], tensors["labels"])
    except KeyError as error:
        raise UserError(f"{path} lacks its tensor {error}: remove it, and it is made again.") from error


def open_bank(
    settings: BankSettings, cache: Path, name: str, device: torch.device, tick: Tick = lambda _: None
) -> FeatureBank:
    """Open the bank of ``settings`` in ``cache``, extracting it first where it is not there."""
    path = settings.path(cache, name)
    if not path.exists():
        need_writable(cache)  # told before the pass, not after it
        save(extract(settings, device, tick), path, settings.fingerprint)
    return load(path, settings.fingerprint)
