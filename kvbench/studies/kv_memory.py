"""The findings of "Knowledge Distillation of ResNet18" (fxnnxc's blog, 2023-04-19): linear heads against memories.

Limits, such as twice the loss, are ours: the source gives none.
"""

from __future__ import annotations

from kvbench.findings.design import Design
from kvbench.findings.finding import Finding
from kvbench.findings.vocabulary import at_least, below, best_of, better, correlates, no_worse, not_better, sooner

RESIDUAL = {"train_loss": 1.2, "val_accuracy": 0.02}  # "not by much"
FROZEN = {"train_loss": 1.05, "val_accuracy": 0.01}  # "no worse"

FINDINGS = {
    row.id: row
    for row in [
        Finding(
            "simple-converges-faster",
            "the simpler model has significantly faster optimization",
            sooner("simple", "memory"),
        ),
        Finding(
            "simple-is-best",
            "best performance with Models 1 and 2",
            better("simple", "memory"),
        ),
        Finding(
            "memory-hardly-trains",
            "Key-value memory is hardly trained",
            [at_least(2, "memory", best_of("simple"), "train_loss"), below("memory", "simple", "val_accuracy")],
        ),
        Finding(
            "gelu-beats-relu",
            "GELU is better than ReLU",
            [
                better("Model3", "Model5", said=("GELU", "ReLU")),
                better("Model4", "Model6", said=("GELU", "ReLU")),
            ],
        ),
        Finding(
            "dense-beats-residual",
            "residual is worse than dense, not by much",
            [
                [not_better("Model7", dense), no_worse("Model7", dense, RESIDUAL, label="not-much-worse")]
                for dense in ("Model3", "Model4")
            ],
        ),
        Finding(
            "frozen-memory-suffices",
            "a frozen memory is no worse than a trained one (in its tables, not in its prose)",
            [no_worse("Model4", "Model3", FROZEN), no_worse("Model6", "Model5", FROZEN)],
        ),
        Finding(
            "loss-predicts-accuracy",
            "accuracy correlates with training loss",
            correlates("train_loss", "val_accuracy", at_most=-0.8),
        ),
        Finding(
            "scheduler-helps",
            "lr_scheduler is a good way",
            better("all", across=("StepLR", "constant lr")),
        ),
    ]
}

STUDENTS = tuple(f"Model{n}" for n in range(1, 8))
DESIGN = Design(
    "kv_memory",
    {"StepLR": {s: f"lr_{s}" for s in STUDENTS}, "constant lr": {s: s for s in STUDENTS}},
    {
        "memory": STUDENTS[2:],
        "simple": STUDENTS[:2],
        "GELU": ("Model3", "Model4", "Model7"),
        "ReLU": ("Model5", "Model6"),
        "trained memory": ("Model3", "Model5", "Model7"),
        "frozen memory": ("Model4", "Model6"),
        "what reads more than the last tap": STUDENTS[1:],
        "what reads the third tap from the end, and the sums of memories": STUDENTS[2:6],
    },
    FINDINGS,
    focus="memory",
    shipped=".",
)
