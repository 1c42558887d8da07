"""How long a pass takes on many workers that are slow, fail and are lost: the scheduler's own rules on a simulated Ray.

    python -m benchmarks.scale --workers 512 --rate 400 --images 1e9

prints hours with and without trouble, for the plan in docs/scale.md. Nothing is computed: `SimulatedRay` has a clock of
its own, and `kvbench.harness.engine.Tasks` deals out its tasks as it does on a cluster.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from kvbench.features.store import ROWS
from kvbench.harness.engine import Tasks
from kvbench.utils.progress import ignore
from kvbench.utils.shares import Share
from kvbench.utils.text import markdown_table


@dataclass(frozen=True)
class Trouble:
    """What goes wrong.

    Args:
        slow: the share of workers that are slow, ``slowness`` times as slow.
        slowness: how many times.
        spread: of the time of a task, as a share of it.
        lost: how often a worker is lost, a second.
        absent: seconds until there is a place for its successor.
        failing: the share of tasks' attempts that fail.
    """

    slow: float = 0.0
    slowness: float = 5.0
    spread: float = 0.0
    lost: float = 0.0
    absent: float = 600.0
    failing: float = 0.0


class LostError(Exception):
    """What a promise of a lost worker raises."""


class _Exceptions:
    RayError = LostError


class _Method:
    def __init__(self, call: Callable[..., int]):
        self.remote = call


class SimulatedRay:
    """As much of Ray as `Tasks` uses, with a clock of its own.

    Args:
        workers: how many there is a place for.
        tasks: how many there are.
        seconds: of a task on a worker that is not slow.
        trouble: what goes wrong.
        seed: of all that is drawn.
    """

    exceptions = _Exceptions

    def __init__(self, workers: int, tasks: int, seconds: float, trouble: Trouble, seed: int = 0):
        self.workers, self.tasks, self.seconds, self.trouble = workers, tasks, seconds, trouble
        self.dice = random.Random(seed)  # noqa: S311 (no secrets)
        self.now = 0.0
        self.begun = 0  # tasks, again and again
        self.finished: dict[int, float] = {}  # task -> when it was first done
        self._hired = 0
        self._events: list[tuple[float, int]] = []  # when a promise is kept
        self._results: dict[int, Any] = {}  # of a promise; an exception is raised
        self._promises = iter(range(10**12))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.workers)}

    def remote(self, **_needs: Any) -> Callable[..., Any]:
        return lambda _worker: _Method(self._hire)

    def _hire(self, *_: Any) -> Any:
        self._hired += 1
        late = self.trouble.absent if self._hired > self.workers else 0.0
        pace = self.trouble.slowness if self.dice.random() < self.trouble.slow else 1.0
        dies = self.now + late + (self.dice.expovariate(self.trouble.lost) if self.trouble.lost else float("inf"))

        def promise(after: float, result: Any) -> int:
            number = next(self._promises)
            lost = self.now + after >= dies
            heapq.heappush(self._events, (max(self.now, dies) if lost else self.now + after, number))
            self._results[number] = LostError("a node is lost") if lost else result
            return number

        def do(_stage: int, share: Share) -> int:
            self.begun += 1
            seconds = self.seconds * pace * self.dice.uniform(1 - self.trouble.spread, 1 + self.trouble.spread)
            failed = "it fails" if self.dice.random() < self.trouble.failing else ""
            if not failed and self.now + seconds < dies:
                self.finished.setdefault(share.number, self.now + seconds)
            return promise(seconds, (None, failed))

        worker = type("Worker", (), {})()
        worker.look, worker.do = _Method(lambda: promise(late, ([("pass", self.tasks)], ""))), _Method(do)
        return worker

    def wait(self, _promises: Sequence[int], **_: Any) -> tuple[list[int], list[int]]:
        """Go on to the next event."""
        self.now, number = heapq.heappop(self._events)
        return [number], []

    def get(self, promise: int) -> Any:
        result = self._results.pop(promise)
        if isinstance(result, LostError):
            raise result
        return result


def simulated(workers: int, tasks: int, seconds: float, trouble: Trouble, seed: int = 0) -> SimulatedRay:
    """Let the scheduler do all tasks; its clock then says how long that took."""
    ray = SimulatedRay(workers, tasks, seconds, trouble, seed)
    Tasks(ray, ("extract", ".", [{"device": "cpu"}], []), ignore).run()
    return ray


TROUBLES = {
    "none": Trouble(),
    "tasks 20% apart": Trouble(spread=0.2),
    "5% of workers 5 times as slow": Trouble(spread=0.2, slow=0.05),
    "each worker lost once a day, 10 minutes without": Trouble(spread=0.2, lost=1 / 86400),
    "0.1% of attempts fail": Trouble(spread=0.2, failing=0.001),
    "all of it": Trouble(0.05, 5.0, 0.2, 1 / 86400, 600.0, 0.001),
}


def main(
    images: Annotated[float, typer.Option(help="Of the pass.")] = 1e9,
    rate: Annotated[float, typer.Option(help="Images a second that a worker decodes and passes.")] = 400.0,
    workers: Annotated[int, typer.Option(help="How many, one on each node.")] = 512,
) -> None:
    """Print hours and repeated tasks, by what goes wrong."""
    tasks, seconds = -(-int(images) // ROWS), ROWS / rate
    rows = []
    for name, trouble in TROUBLES.items():
        ray = simulated(workers, tasks, seconds, trouble)
        ideal = tasks * seconds / workers
        rows.append([name, f"{ray.now / 3600:.2f}", f"{ray.now / ideal - 1:.1%}", f"{ray.begun / tasks - 1:.2%}"])
    typer.echo(markdown_table(["trouble", "hours", "longer than without", "tasks begun again"], rows))


if __name__ == "__main__":
    typer.run(main)
