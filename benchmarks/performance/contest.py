"""The table of 14 configurations x 10 epochs, by kvbench and by its peers, in units of one plain teacher pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from benchmarks.performance.material import (
    CPU,
    TAPS,
    InMemory,
    Scale,
    Seconds,
    fractals,
    head,
    joined,
    passed,
    scaled,
    side_by_side,
    stopwatch,
    table,
    teacher,
)
from kvbench.core.bank import FeatureBank
from kvbench.core.recipe import Configuration
from kvbench.core.run import Run
from kvbench.core.trainer import Training


class Tapped:
    """A frozen teacher whose last blocks' outputs are hooked, averaged to one cell and kept."""

    def __init__(self, teacher: nn.Module):
        self.teacher = teacher
        self.kept: dict[str, Tensor] = {}
        for tap in TAPS:
            teacher.get_submodule(tap).register_forward_hook(
                lambda _module, _inputs, output, tap=tap: self.kept.update(
                    {tap: F.adaptive_avg_pool2d(output, (1, 1)).flatten(1)}
                )
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of every tap (B, D), shallow to deep, and logits (B, K), of images (B, 3, size, size)."""
        logits = self.teacher(images)
        return [self.kept[tap] for tap in TAPS], logits


class SourceLoop:
    """The source's loop: the teacher sees every batch of every epoch of every configuration."""

    def __init__(self, teacher: Tapped, head: nn.Module, lr: float = 1e-3, weight_decay: float = 1e-4):
        self.teacher, self.head = teacher, head
        self.criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
        trained = [p for p in head.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr, weight_decay=weight_decay, fused=True)

    def step(self, images: Tensor) -> float:
        """Train on one batch; returns its loss."""
        features, target = self.teacher(images)
        loss = self.criterion(F.log_softmax(self.head(features), 1), F.log_softmax(target, 1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class HeadsLoop:
    """All heads in one pass, as DINOv2's linear evaluation trains them: the teacher sees every batch of every epoch."""

    def __init__(self, teacher: Tapped, heads: Sequence[nn.Module], lr: float = 1e-3, weight_decay: float = 1e-4):
        self.teacher, self.heads = teacher, heads
        self.criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
        self.optimizers = [
            torch.optim.Adam([p for p in h.parameters() if p.requires_grad], lr, weight_decay=weight_decay, fused=True)
            for h in heads
        ]

    def step(self, images: Tensor) -> list[float]:
        """Train every head on one batch; returns their losses."""
        features, logits = self.teacher(images)
        target = F.log_softmax(logits, 1)
        losses = [self.criterion(F.log_softmax(head(features), 1), target) for head in self.heads]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        return [float(loss.detach()) for loss in losses]


@torch.inference_mode()
def teacher_pass(teacher: nn.Module, images: Tensor) -> Tensor:
    """The unit: a plain pass of the teacher over a batch."""
    logits: Tensor = teacher(images)
    return logits


INSTALLED = find_spec("torchdistill") is not None
ABSENT = "torchdistill is not installed (pip install -e '.[performance]'), so it was not measured."


class PeerLoop:
    """A `torchdistill.core.distillation.DistillationBox` that trains one head.

    The teacher's forward proc reads its `ForwardHookManager` and hands the features on in ``supp_dict``; the student's
    forward proc takes them from there. The loss is its ``KDLoss`` at temperature 1, without labels.
    """

    def __init__(self, teacher: nn.Module, head: nn.Module, images: InMemory, batch: int, lr: float = 1e-3):
        from torchdistill.core.distillation import get_distillation_box
        from torchdistill.core.forward_hook import ForwardHookManager
        from torchdistill.core.interfaces.registry import register_forward_proc_func
        from torchdistill.losses import mid_level  # noqa: F401 (registers KDLoss)

        logging.getLogger("torchdistill").setLevel(logging.WARNING)
        hooks = ForwardHookManager(CPU)
        for tap in TAPS:
            hooks.add_hook(teacher, tap, requires_input=False, requires_output=True)

        @register_forward_proc_func(key="kvbench_teacher")  # type: ignore[untyped-decorator]
        def _teacher(model: nn.Module, batch: Tensor, _targets: Tensor, supp_dict: dict[str, Any]) -> Tensor:
            logits: Tensor = model(batch)
            kept = hooks.pop_io_dict()
            supp_dict["taps"] = [F.adaptive_avg_pool2d(kept[tap]["output"], (1, 1)).flatten(1) for tap in TAPS]
            return logits

        @register_forward_proc_func(key="kvbench_head")  # type: ignore[untyped-decorator]
        def _head(model: nn.Module, _batch: Tensor, _targets: Tensor, supp_dict: dict[str, Any]) -> Tensor:
            logits: Tensor = model(supp_dict["taps"])
            return logits

        where = {"module_path": ".", "module_io": "output"}
        loss = {
            "temperature": 1.0,
            "alpha": 0.0,
            **{f"{who}_{key}": value for who in ("student", "teacher") for key, value in where.items()},
        }
        config = {
            "num_epochs": 1,
            "train_data_loader": {
                "dataset_id": "train",
                "sampler": {"class_or_func": SequentialSampler},
                "kwargs": {"batch_size": batch, "num_workers": 0},
            },
            "teacher": {"forward_proc": "kvbench_teacher", "requires_grad": False},
            "student": {"forward_proc": "kvbench_head"},
            "optimizer": {"key": "Adam", "kwargs": {"lr": lr, "weight_decay": 1e-4, "fused": True}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
            },
        }
        self.box = get_distillation_box(teacher, head, {"train": images}, config, CPU, None, False, 1)
        self.box.pre_epoch_process(epoch=0)
        self.batches: Iterator[tuple[Tensor, Tensor, dict[str, Any]]] = iter(self.box.train_data_loader)

    def step(self) -> float:
        """Train on the loader's next batch; returns its loss."""
        return self.train(*next(self.batches))

    def train(self, images: Tensor, targets: Tensor, supp_dict: dict[str, Any]) -> float:
        """Train on one batch, as torchdistill's example script does; returns its loss."""
        loss = self.box.forward_process(images, targets, supp_dict)
        self.box.post_forward_process(loss=loss)
        return float(loss.detach())


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
        if INSTALLED:
            other = PeerLoop(teacher(), head(configuration.student), self.images, self.scale.batch)
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


@dataclass(frozen=True)
class Standing:
    """Seconds of one plain teacher pass (``unit``), of every peer's table (scaled up) and of kvbench's (whole)."""

    unit: float
    peers: dict[str, float]
    kvbench: dict[str, float]

    def units(self, seconds: float) -> float:
        """In plain teacher passes."""
        return seconds / self.unit

    @property
    def best(self) -> float:
        """kvbench in float32, two configurations side by side."""
        return self.kvbench["side by side"]


def standing(result: Mapping[str, Any]) -> Standing:
    """Scale the samples of `contest` up.

    Source and torchdistill: the median step of a configuration, times its steps an epoch, epochs and configurations.
    Many heads: the median step, times steps and epochs. The teacher pass: the median batch, times batches.
    """
    once = result["steps"] * result["epochs"]
    times = {"source": once * result["configurations"], "torchdistill": once * result["configurations"], "heads": once}
    sums = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    return Standing(
        unit=scaled(result["peers"]["unit"], result["steps"]),
        peers={name: scaled(result["peers"][name], n) for name, n in times.items() if result["peers"][name]},
        kvbench={
            "one after another": sums["extract"] + sums["train"],
            "side by side": sums["extract"] + sums["train side by side"],
            "side by side, bf16": sums["extract bf16"] + sums["train side by side"],
        },
    )
