"""What happens after every epoch of a run: its state is kept, and it is counted."""

from __future__ import annotations

import threading

from kvbench.core.run import Run
from kvbench.core.trainer import Training
from kvbench.harness.resume import States
from kvbench.utils.errors import best_effort
from kvbench.utils.progress import OnProgress, Progress


class Epochs:
    """Counts the epochs of runs, which end in threads of their own.

    Args:
        total: how many there are.
        on_progress: is told of each.
    """

    def __init__(self, total: int, on_progress: OnProgress):
        self.total, self.on_progress = total, on_progress
        self.done = 0
        self._counting = threading.Lock()

    def count(self, run: Run) -> None:
        """Count the latest epoch of a run."""
        with self._counting, best_effort("show the progress"):
            self.done += 1
            text = f"{run.configuration.id} seed {run.seed} epoch {run.epochs_done}/{run.configuration.recipe.epochs}"
            self.on_progress(Progress(text, min(self.done, self.total), self.total, "epoch"))

    def follow(self, training: Training, states: States | None) -> None:
        """Count the epochs of a training, once the state of each is kept; None: nothing is."""

        def on_epoch(run: Run) -> None:
            if states is not None:
                with best_effort(f"keep the state of {run.configuration.id}"):
                    states.save(run)
            self.count(run)

        training.on_epoch = on_epoch
