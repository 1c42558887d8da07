"""The tasks of a command on a Ray cluster: each worker does some of them, as the jobs of an array do.

Results are files in a cache that all nodes share, so nothing but sentences goes through Ray, and a task that was lost,
that failed or that is slow may be done again by another worker.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from kvbench.harness.stages import Stage, prepare
from kvbench.utils.errors import UserError, describe
from kvbench.utils.progress import OnProgress, Progress, ignore
from kvbench.utils.shares import Share

TRIES = 3  # of a task
MOST = 32  # tasks for each worker: every one starts processes that read images, and one program deals out all of them
PATIENCE = 600.0  # seconds without a worker
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
HERE = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}


class Worker:
    """An actor: it prepares once, and does tasks one after the other. What is wrong is a sentence that it returns."""

    def __init__(self, threads: Mapping[str, int], *arguments: Any):
        self.arguments = arguments
        if threads:  # before torch is imported, which follows it as the processes that decode do
            import ray

            os.environ["OMP_NUM_THREADS"] = str(threads.get(ray.get_runtime_context().get_node_id(), 1))

    @cached_property
    def stages(self) -> list[Stage]:
        return prepare(*self.arguments)

    def do(self, stage: int = 0, share: Share | None = None) -> tuple[list[tuple[str, int]], str]:
        """Do a task, or only prepare; returns what there is to do, in stages, and what is wrong."""
        try:
            if share is not None:
                self.stages[stage].do(share)
            return [(one.what, one.count) for one in self.stages], ""
        except Exception as error:
            return [], str(error) if isinstance(error, UserError) else describe(error)


def run(
    command: str, each: Sequence[Mapping[str, str]], names: Sequence[str] = (), on_progress: OnProgress = ignore
) -> list[str]:
    """Do all tasks of a command on the cluster at ``RAY_ADDRESS``, or on one of this machine's processors.

    A worker that is lost, with its node or alone, is replaced, and its task is done by another; so is one that fails,
    `TRIES` times in all. Arguments are those of `prepare`.

    Returns:
        A sentence for each task of the last stage that failed again and again.

    Raises:
        UserError: Ray is not installed, no worker comes up, or a task of an earlier stage fails.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'kvbench[ray]'.") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            os.environ.update({**LOCAL, **os.environ})
        try:
            _need_answer(address)
            ray.init(log_to_driver=False, logging_level="ERROR", **({} if address else HERE))
        except (Exception, SystemExit) as error:
            raise UserError(f"Ray cannot be reached: {describe(error)}. Is RAY_ADDRESS right?") from error
    try:
        return Tasks(ray, (command, str(Path.cwd()), [dict(one) for one in each], list(names)), on_progress).run()
    finally:
        ray.shutdown()


def _need_answer(address: str) -> None:
    """Raise `OSError` where nobody listens at ``HOST:PORT``: Ray waits for minutes there, and then exits."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), 30).close()


class Places(NamedTuple):
    """Where workers can be: how many, what each asks of its node, and by node how many threads each has."""

    workers: int
    needs: dict[str, int]
    threads: dict[str, int]  # empty: as Ray says


def places_on(nodes: Sequence[Mapping[str, Any]], device: str) -> Places:
    """The places on a cluster's nodes, as Ray lists them."""
    every = {node["NodeID"]: Counter(node["Resources"]) for node in nodes if node["Alive"]}
    if device != "cpu" and (have := {name: one for name, one in every.items() if one["GPU"] >= 1}):
        # It asks for no processors, which others may hold, and Ray would then give it one thread.
        threads = {name: max(1, int(one["CPU"] // one["GPU"])) for name, one in have.items()}
        return Places(sum(int(one["GPU"]) for one in have.values()), {"num_gpus": 1, "num_cpus": 0}, threads)
    return Places(max(1, sum(int(one["CPU"]) for one in every.values())), {"num_cpus": 1}, {})


class Tasks:
    """The tasks of a command, and who does them: Ray starts workers and says who is lost, all else is decided here.

    With Ray's own retries a lost worker's task waits for that worker's successor, and there is no second copy of a slow
    one. ``ray`` is the package, connected; ``arguments`` are those of `prepare`.
    """

    def __init__(self, ray: Any, arguments: tuple[str, str, list[dict[str, str]], list[str]], on_progress: OnProgress):
        self.ray, self.arguments, self.on_progress = ray, arguments, on_progress
        self.places = places_on(ray.nodes(), arguments[2][0].get("device", "auto"))
        self.actor = ray.remote(**self.places.needs)(Worker)
        self.promised: dict[Any, tuple[Any, tuple[int, int] | None]] = {}  # promise -> worker; its stage and task
        self.idle: list[Any] = []
        self.stages: list[tuple[str, int]] = []  # known once a worker has looked
        self.stage = 0
        self.left: set[int] = set()  # its tasks that are not done
        self.waiting: deque[int] = deque()  # those that nobody does
        self.begun: deque[int] = deque()  # those that nobody does a second time
        self.failures: Counter[int] = Counter()
        self.problems: dict[int, str] = {}
        self.lost = 0  # workers, before they had looked, one after the other

    def run(self) -> list[str]:
        """Do all; returns what is wrong with tasks of the last stage, raises `UserError` for what is before it."""
        for _ in range(self.places.workers):
            self._hire()
        self.heard = time.monotonic()
        while not self.stages:
            self._wait()
        for stage, (_, count) in enumerate(self.stages):
            if self.problems:
                break
            self.stage, self.left, self.waiting = stage, {*range(count)}, deque(range(count))
            self.begun.clear()
            self.failures.clear()
            while self.left:
                while self.idle and (number := self._next()) is not None:
                    worker = self.idle.pop()
                    self.promised[worker.do.remote(stage, Share(number + 1, count))] = worker, (stage, number)
                self._wait()
        else:
            return list(dict.fromkeys(self.problems.values()))
        raise UserError(" ".join(dict.fromkeys(self.problems.values())))

    def _hire(self) -> None:
        worker = self.actor.remote(self.places.threads, *self.arguments)
        self.promised[worker.do.remote()] = worker, None

    def _wait(self) -> None:
        """Until a promise is kept or broken."""
        ready, _ = self.ray.wait([*self.promised], num_returns=1, timeout=10)
        if ready or any(task for _, task in self.promised.values()):
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > PATIENCE:
            raise UserError(f"No worker came up on the Ray cluster in {PATIENCE:.0f} seconds: is a processor free?")
        for promise in ready:
            worker, task = self.promised.pop(promise)
            try:
                found, problem = self.ray.get(promise)
            except self.ray.exceptions.RayError as error:
                self._hire()
                self.lost += task is None
                if self.lost > TRIES * self.places.workers:
                    raise UserError(f"Workers on the Ray cluster are lost at once: {describe(error)}.") from error
                if task:
                    self._done(*task, f"A task was lost with its worker {TRIES} times: {describe(error)}.")
                continue
            if task or not problem:
                self.idle.append(worker)
            if task:
                self._done(*task, problem)
            elif not problem:
                self.lost = 0
                self.stages = self.stages or [(what, min(count, MOST * self.places.workers)) for what, count in found]
            elif not (self.promised or self.idle):
                raise UserError(problem)

    def _done(self, stage: int, number: int, problem: str) -> None:
        if stage != self.stage or number not in self.left:
            return  # another worker was quicker
        self.failures[number] += bool(problem)
        if problem and self.failures[number] < TRIES:
            self.waiting.append(number)
            return
        self.left.discard(number)
        self.problems |= {number: problem} if problem else {}
        what, count = self.stages[stage]
        self.on_progress(Progress(f"{what} on Ray", count - len(self.left), count, "task"))

    def _next(self) -> int | None:
        """The next task; when all are being done, the one that was begun first, a second time: it may be slow."""
        for some in (self.waiting, self.begun):
            while some:
                if (number := some.popleft()) in self.left:
                    if some is self.waiting:
                        self.begun.append(number)
                    return number
        return None
