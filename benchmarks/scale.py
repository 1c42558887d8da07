"""A plan for the teacher's pass over millions of images on many machines: hours, dollars, bytes, and what is slowest.

    python -m benchmarks.scale --decode-ms 1.75 --pass-ms 11

prints the tables of docs/scale.md, from rates that python -m benchmarks.performance measures. The last one says what
trouble costs: `kvbench.harness.engine.Tasks` deals out its tasks as it does on a cluster, with its own rules, to
workers of a simulated Ray that are slow, fail and are lost. Nothing is computed, and the clock is simulated, too.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.performance.material import row_bytes
from kvbench.features.store import ROWS
from kvbench.harness.engine import Tasks
from kvbench.harness.sweep import duration
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
        tasks: how many there are; many may be dealt out as one.
        seconds: of each on a worker that is not slow.
        trouble: what goes wrong.
        seed: of all that is drawn.
        begins: seconds until a worker that is not slow begins with tasks, as a successor does, too.
    """

    exceptions = _Exceptions

    def __init__(self, workers: int, tasks: int, seconds: float, trouble: Trouble, seed: int = 0, begins: float = 0.0):
        self.workers, self.tasks, self.seconds, self.trouble, self.begins = workers, tasks, seconds, trouble, begins
        self.dice = random.Random(seed)  # noqa: S311 (no secrets)
        self.now = 0.0
        self.begun = 0  # tasks, again and again
        self.finished: dict[int, float] = {}  # task -> when it was first done
        self._hired = 0
        self._events: list[tuple[float, int]] = []  # when a promise is kept
        self._results: dict[int, Any] = {}  # of a promise; an exception is raised
        self._promises = iter(range(10**12))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "all", "Alive": True, "Resources": {"CPU": float(self.workers)}}]

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

        def do(_stage: int = 0, share: Share | None = None) -> int:
            if share is None:
                return promise(late + self.begins * pace, ([("pass", self.tasks)], ""))
            self.begun += 1
            mine = share.of(range(1, self.tasks + 1))
            spread = self.dice.uniform(1 - self.trouble.spread, 1 + self.trouble.spread)
            seconds = self.seconds * len(mine) * pace * spread
            failed = "it fails" if self.dice.random() < self.trouble.failing else ""
            if not failed and self.now + seconds < dies:
                self.finished |= {number: self.now + seconds for number in mine if number not in self.finished}
            return promise(seconds, ([], failed))

        worker = type("Worker", (), {})()
        worker.do = _Method(do)
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


def simulated(
    workers: int, tasks: int, seconds: float, trouble: Trouble, seed: int = 0, begins: float = 0.0
) -> SimulatedRay:
    """Let all tasks be dealt out; the clock then says how long that took."""
    ray = SimulatedRay(workers, tasks, seconds, trouble, seed, begins)
    Tasks(ray, ("extract", ".", [{"device": "cpu"}], []), ignore).run()
    return ray


TROUBLES = {
    "none": Trouble(),
    "task times vary by 20%": Trouble(spread=0.2),
    "5% of workers 5 times as slow": Trouble(spread=0.2, slow=0.05),
    "workers lost daily, replaced in 10 minutes": Trouble(spread=0.2, lost=1 / 86400),
    "0.1% of attempts fail": Trouble(spread=0.2, failing=0.001),
    "all combined": Trouble(0.05, 5.0, 0.2, 1 / 86400, 600.0, 0.001),
}
NODES = 8, 64, 512
TEACHERS = 1, 5
SETS = {"13.2 million": (13.2e6, 21_841), "1 billion": (1e9, 1_000)}  # images and classes; the first: ImageNet-21k
WORKLOAD = 13.2e6  # images, at most: each worker looks at the files of its whole workload


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Args:
        workers: of Ray: one for each processor, or one for its GPU.
        overlaps: whether images are decoded while others are passed.
        dollars: an hour.
        decode: seconds an image, all its processors at work.
        teach: seconds an image and teacher, likewise, or of its GPU.
    """

    workers: int
    overlaps: bool
    dollars: float
    decode: float
    teach: float

    def rate(self, teachers: int) -> float:
        """Images a second: processors decode and pass in turns; a GPU passes what they decode meanwhile."""
        each = self.decode, teachers * self.teach
        return 1 / (max(each) if self.overlaps else sum(each))


def seconds_of(images: float, nodes: int, rate: float, look: float) -> float:
    """Of a pass on nodes of a rate: each works on one workload after the other, beside others where they are more.

    ``look``: seconds that a worker looks at a file when it begins with a workload.
    """
    workloads = -(-images // WORKLOAD)
    return images / min(nodes, workloads) * look + images / (nodes * rate)


def rates_table(nodes: Mapping[str, Node], photo: float) -> str:
    """What a node of each kind does in a second."""
    rows = []
    for (kind, node), teachers in product(nodes.items(), TEACHERS):
        rate, passed = node.rate(teachers), teachers * node.teach
        slowest = "decode" if node.decode >= passed else "pass"
        each = [f"{1e3 * seconds:.2f} ms" for seconds in (node.decode, passed)]
        rows.append([kind, str(teachers), *each, f"{rate:,.0f}", f"{rate * photo / 1e6:,.0f} MB", slowest])
    return markdown_table(["node", "teachers", "decode", "pass", "images a second", "read a second", "slowest"], rows)


def plan_table(nodes: Mapping[str, Node], look: float) -> str:
    """Time, dollars and bytes of passes over each set."""
    rows = []
    for (name, (images, classes)), (kind, node), teachers in product(SETS.items(), nodes.items(), TEACHERS):
        rate = node.rate(teachers)
        cells = []
        for count in NODES:
            seconds = seconds_of(images, count, rate, look)
            cells.append(f"{duration(seconds)}, ${count * seconds / 3600 * node.dollars:,.0f}")
        size = teachers * images * row_bytes(classes) / 1e12
        half = math.ceil(-(-images // WORKLOAD) / (rate * look))
        rows.append([name, kind, str(teachers), *cells, f"{size:.1f} TB", f"{half:,} nodes"])
    heads = [f"{count} nodes" for count in NODES]
    return markdown_table(["images", "node", "teachers", *heads, "banks", "half looking"], rows)


def trouble_table(nodes: Mapping[str, Node], look: float) -> str:
    """Time of a simulated pass of one teacher over the first set, and how much longer it is with trouble (a mean)."""
    images, _ = SETS["13.2 million"]
    tasks = -(-int(images) // ROWS)
    rows: dict[str, list[str]] = {name: [] for name in TROUBLES}
    for node, count in product(nodes.values(), NODES):
        workers = count * node.workers
        each = images / tasks * node.workers / node.rate(1)
        plain = simulated(workers, tasks, each, Trouble(), begins=images * look).now
        for name, trouble in TROUBLES.items():
            every = [simulated(workers, tasks, each, trouble, k, images * look).now for k in range(-(-64 // workers))]
            longer = round(fmean(every) / plain - 1, 3) + 0.0  # no -0.0
            rows[name].append(f"{longer:+.1%}" if trouble != Trouble() else duration(plain))
    heads = [f"{count} {kind}" for kind, count in product(nodes, NODES)]
    return markdown_table(["trouble", *heads], [[name, *cells] for name, cells in rows.items()])


LEAST = 1e-6  # of a number that must be more than nothing


def main(
    decode_ms: Annotated[float, typer.Option(min=LEAST, help="Time for one processor to decode an image.")] = 1.75,
    pass_ms: Annotated[float, typer.Option(min=LEAST, help="Time for processors to pass it through a teacher.")] = 11.0,
    pass_processors: Annotated[int, typer.Option(min=1, help="How many processors that were.")] = 2,
    gpu_ms: Annotated[float, typer.Option(min=0, help="Time for a GPU; 0: as long as its node decodes.")] = 0.0,
    look_ms: Annotated[float, typer.Option(min=LEAST, help="Time for a worker to look at an image's file.")] = 0.1,
    photo_kb: Annotated[float, typer.Option(min=LEAST, help="Size of an image's file.")] = 92.0,
    processors: Annotated[int, typer.Option(min=1, help="Processors of a node.")] = 16,
    cpu_dollars: Annotated[float, typer.Option(min=0, help="Price of an hour of a node without a GPU.")] = 0.8,
    gpu_dollars: Annotated[float, typer.Option(min=0, help="Price of an hour of a node with one.")] = 4.0,
) -> None:
    """Print what a node does in a second, what passes take and cost, and how much longer they take with trouble."""
    decode, teach = decode_ms / 1e3 / processors, pass_ms * pass_processors / 1e3 / processors
    nodes = {
        "CPU": Node(processors, False, cpu_dollars, decode, teach),
        "GPU": Node(1, True, gpu_dollars, decode, gpu_ms / 1e3 or decode),
    }
    for table in (rates_table(nodes, photo_kb * 1e3), plan_table(nodes, look_ms / 1e3)):
        typer.echo(f"{table}\n")
    typer.echo(trouble_table(nodes, look_ms / 1e3))


if __name__ == "__main__":
    typer.run(main)
