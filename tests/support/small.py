"""The small workload, for tests and for processes that tests start."""

from dataclasses import replace

from kvbench.core.recipe import Recipe
from kvbench.workloads import WORKLOADS, generated

SMALL = replace(
    WORKLOADS["fractals"],
    name="small",
    train_count=640,
    val_count=100,
    recipe=Recipe(epochs=3, lr=3e-3),
    opener=generated(classes=10),
    taps=("layer3.1", "layer4.0", "layer4.1"),  # of tiny_resnet, too
    seeds=2,
)
