"""torchdistill's own training loop on the same heads, through its public interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from benchmarks.performance.material import CPU, TAPS, InMemory

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
