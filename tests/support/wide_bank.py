"""A program: makes a bank of some hundred megabytes in CACHE; prints by how much memory grew, and the bank's size."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from kvbench.features.spec import BankSettings
from kvbench.features.teacher import frozen
from tests.support.banks import CPU, TEN, Dots, open_bank


class Wide(nn.Module):
    """A tap of 5,000 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tap, self.fc = nn.Linear(4, 5_000), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.tap(x[:, 0, 0, :4])
        logits: Tensor = self.fc(x[:, 0, 0, :4])
        return logits


class Quick(Dots):
    """Images that cost nothing to draw."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return torch.ones(len(indices), 3, 4, 4), torch.tensor(indices) % 10


torch.set_num_threads(1)
settings = BankSettings(Quick(16384), frozen("wide", Wide(), TEN), ("tap",))
open_bank(BankSettings(Quick(256), settings.teacher, settings.taps), Path(sys.argv[1]), "small", CPU)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_bank(settings, Path(sys.argv[1]), "large", CPU)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(1024 * grown, sum(part.stat().st_size for part in settings.path(Path(sys.argv[1]), "large").iterdir()))
