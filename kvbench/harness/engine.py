"""The tasks of a command on a Ray cluster: each worker does some of them, as the jobs of an array do.

Results are files in a cache that all nodes share, so nothing but sentences goes through Ray, and a task that was lost,
that failed or that is slow may be done again by another worker.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kvbench.harness.stages import Stage, prepare
from kvbench.utils.errors import UserError, describe
from kvbench.utils.progress import OnProgress, Progress, ignore
from kvbench.utils.shares import Share

TRIES = 3  # of a task
COPIES = 2  # of a task at once: the second where a worker has nothing else to do, since the first may be slow
PATIENCE = 600.0  # seconds without a worker
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


class Worker:
    """An actor: it prepares once, and does tasks one after the other. What is wrong is a sentence that it returns."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    @cached_property
    def stages(self) -> list[Stage]:
        return prepare(*self.arguments)

    def look(self) -> tuple[list[tuple[str, int]], str]:
        """What there is to do, in stages, and what is wrong."""
        found: list[tuple[str, int]] = []
        return found, self._problem(lambda: found.extend((stage.what, stage.count) for stage in self.stages))

    def do(self, stage: int, share: Share) -> tuple[None, str]:
        """Do a task; returns what is wrong."""
        return None, self._problem(lambda: self.stages[stage].do(share))

    def _problem(self, act: Callable[[], object]) -> str:
        try:
            act()
        except Exception as error:
            return str(error) if isinstance(error, UserError) else describe(error)
        return ""


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
    address = os.environ.get("RAY_ADDRESS", "")
    local = not (ray.is_initialized() or address)
    if local:
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
    if not ray.is_initialized():
        here = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if local else {}
        try:
            _need_answer(address)
            ray.init(log_to_driver=False, logging_level="ERROR", **here)
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


class Tasks:
    """The tasks of a command, and who does them.

    Args:
        ray: the package, connected.
        arguments: of `prepare`.
        on_progress: is told of tasks that are done.
    """

    def __init__(self, ray: Any, arguments: tuple[str, str, list[dict[str, str]], list[str]], on_progress: OnProgress):
        self.ray, self.arguments, self.on_progress = ray, arguments, on_progress
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0)) if arguments[2][0].get("device", "auto") != "cpu" else 0
        self.workers = gpus or max(1, int(has.get("CPU", 1)))
        self.actor = ray.remote(**({"num_gpus": 1} if gpus else {"num_cpus": 1}))(Worker)
        self.promised: dict[Any, tuple[Any, tuple[int, int] | None]] = {}  # promise -> worker; its stage and task
        self.idle: list[Any] = []
        self.stages: list[tuple[str, int]] = []  # known once a worker has looked
        self.stage = 0
        self.left: set[int] = set()  # its tasks that are not done
        self.waiting: deque[int] = deque()  # those that nobody does
        self.failures: Counter[int] = Counter()
        self.problems: dict[int, str] = {}
        self.lost = 0  # workers, before they had looked, one after the other

    def run(self) -> list[str]:
        """Do all; returns what is wrong with tasks of the last stage, raises `UserError` for what is before it."""
        for _ in range(self.workers):
            self._hire()
        self.heard = time.monotonic()
        while not self.stages:
            self._wait()
        for stage, (_, count) in enumerate(self.stages):
            if self.problems:
                break
            self.stage, self.left, self.waiting = stage, {*range(count)}, deque(range(count))
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
        worker = self.actor.remote(*self.arguments)
        self.promised[worker.look.remote()] = worker, None

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
                if self.lost > TRIES * self.workers:
                    raise UserError(f"Workers on the Ray cluster are lost at once: {describe(error)}.") from error
                if task:
                    self._done(*task, f"A task was lost with its worker {TRIES} times: {describe(error)}.")
                continue
            if task or not problem:
                self.idle.append(worker)
            if task:
                self._done(*task, problem)
            elif not problem:
                self.lost, self.stages = 0, self.stages or found
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
        """The next task; when all are being done, the one that was begun first, a second time."""
        while self.waiting:
            if (number := self.waiting.popleft()) in self.left:
                return number
        copies = Counter(task[1] for _, task in self.promised.values() if task and task[0] == self.stage)
        return next((number for number, count in copies.items() if number in self.left and count < COPIES), None)
