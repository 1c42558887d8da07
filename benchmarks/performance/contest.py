"""The table of 14 configurations x 10 epochs, by kvbench and by its peers, in units of one plain teacher pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.performance import peer
from benchmarks.performance.clock import Seconds, stopwatch
from benchmarks.performance.loops import HeadsLoop, SourceLoop, Tapped, teacher_pass
from benchmarks.performance.material import (
    InMemory,
    fractals,
    head,
    joined,
    passed,
    side_by_side,
    table,
    teacher,
)
from benchmarks.performance.scale import Scale
from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration
from kvbench.core.trainer import Run, Training

Steps = dict[str, Seconds]


class Contest:
    """kvbench measured whole, in pieces; between the pieces, one step of every peer."""

    def __init__(self, scale: Scale, images: InMemory):
        self.scale, self.images = scale, images
        self.table = table(scale)
        self.peers: Steps = {"unit": [], "source": [], "torchdistill": [], "heads": []}
        self.pieces: Steps = {name: [] for name in ("extract", "extract bf16", "train", "train side by side")}
        self._plain = teacher()
        self._hooked = Tapped(teacher())
        self._heads = HeadsLoop(self._hooked, [head(row.student) for row in self.table])
        self._heads.step(self._batch(0)[:2])  # makes the optimisers' state
        teacher_pass(self._plain, self._batch(0))
        self._turn = 0

    def _batch(self, turn: int) -> torch.Tensor:
        first = turn * self.scale.batch % (len(self.images) - self.scale.batch + 1)
        return self.images.pixels[first : first + self.scale.batch]

    def _sample(self, name: str, act: Callable[[], object]) -> None:
        self.peers[name].append(stopwatch(act))

    def sample_peers(self, configuration: Configuration) -> None:
        """Time one step of every peer, after a small one that makes the optimiser's state."""
        batch = self._batch(self._turn)
        self._turn += 1
        self._sample("unit", lambda: teacher_pass(self._plain, batch))
        source = SourceLoop(self._hooked, head(configuration.student))
        source.step(batch[:2])
        self._sample("source", lambda: source.step(batch))
        if peer.INSTALLED:
            other = peer.PeerLoop(teacher(), head(configuration.student), self.images, self.scale.batch)
            other.train(batch[:2], self.images.labels[:2], {})
            self._sample("torchdistill", other.step)
        self._sample("heads", lambda: self._heads.step(batch))

    def extraction(self) -> FeatureBank:
        """Make the bank, piece by piece, in float32 and in bfloat16; returns the former."""
        scale = self.scale
        banks: list[FeatureBank] = []
        warm = self.images.part(0, scale.batch)
        for half in (False, True):
            passed(warm, half=half)
        for first in range(0, scale.train, scale.chunk):
            part = self.images.part(first, scale.chunk)
            self.pieces["extract"].append(stopwatch(partial(_add, banks, part)))
            self.pieces["extract bf16"].append(stopwatch(partial(passed, part, half=True)))
            self._sample("unit", lambda: teacher_pass(self._plain, self._batch(0)))
        return joined(banks)

    def training(self, bank: FeatureBank) -> None:
        """Train every configuration to its end: one after another, then the two recipes of a student side by side."""
        half = len(self.table) // 2
        for scheduled, constant in zip(self.table[:half], self.table[half:], strict=True):
            for row in (scheduled, constant):
                self.sample_peers(row)
                training = Training(row, bank, bank, [0])
                self.pieces["train"].append(stopwatch(partial(_epochs, training)))
            runs = [Run(row, bank, bank, 0) for row in (scheduled, constant)]
            self.pieces["train side by side"].append(stopwatch(partial(side_by_side, runs)))


def _add(banks: list[FeatureBank], images: InMemory) -> None:
    banks.append(passed(images))


def _epochs(training: Training) -> None:
    for _ in range(training.configuration.recipe.epochs):
        training.epoch()


def contest(scale: Scale) -> dict[str, Any]:
    """Measure kvbench and its peers; returns samples in seconds (``peers``, ``pieces``) and the number of steps."""
    images = fractals(scale.train, scale.pixels)
    game = Contest(scale, images)
    game.training(game.extraction())
    steps = -(-scale.train // scale.batch)
    return {
        "configurations": len(game.table),
        "epochs": scale.epochs,
        "steps": steps,
        "images": scale.train,
        "pixels": scale.pixels,
        "batch": scale.batch,
        "rows": [row.id for row in game.table],
        "peers": game.peers,
        "pieces": game.pieces,
    }
