"""The tasks of a command on a Ray cluster: each worker does shares of it, as the jobs of an array do.

Results are files in a cache that all nodes share, so nothing but sentences goes through Ray, and a task that was lost,
that failed or that is slow may be done again by another worker.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbench.harness.options import OPTIONS
from kvbench.utils.errors import UserError, describe
from kvbench.utils.progress import OnProgress, Progress, ignore
from kvbench.utils.shares import Share

TRIES = 3  # of a task
COPIES = 2  # of a task at once: the second where a worker has nothing else to do, since the first may be slow
PATIENCE = 600.0  # seconds without a worker
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@dataclass(frozen=True)
class Work:
    """A command in a worker: how many tasks it has, and what does a share of them."""

    count: int
    do: Callable[[Share], object]


def prepare(command: str, folder: str, texts: Mapping[str, str], names: Sequence[str]) -> Work:
    """Load what a command works on: for ``extract`` images and teacher, for ``train`` the banks.

    Args:
        command: ``extract`` or ``train``.
        folder: where it was called.
        texts: its options, by name.
        names: the configurations to train; empty: all.
    """
    from kvbench.harness.projects import collected, experiment, flags, of_this_project
    from kvbench.harness.setup import Settings
    from kvbench.harness.tasks import train_share

    os.chdir(folder)
    if command == "extract":
        project = of_this_project()
        values = {row.name: row.parse(texts.get(row.name, row.default)) for row in OPTIONS}
        settings = Settings.of(values, experiment(values, project).images)
        stores = settings.stores()[0]
        return Work(sum(len(one.parts) for one in stores.values()), lambda share: settings.fill(stores, share))
    session = collected(flags(texts))
    rows = [row for row in session.rows if row.id in names or not names]

    def train(share: Share) -> None:
        if problems := train_share(session, rows, share, ignore).problems:
            raise UserError(" ".join(problems))

    return Work(len(rows) * len(session.seeds), train)


class Worker:
    """An actor: it prepares once, and does shares one after the other. What is wrong is a sentence that it returns."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def prepare(self) -> tuple[int, str]:
        """How many tasks there are, and what is wrong."""
        try:
            self.work = prepare(*self.arguments)
        except Exception as error:
            return 0, _sentence(error)
        return self.work.count, ""

    def do(self, share: Share) -> str:
        """Do one; returns what is wrong."""
        try:
            self.work.do(share)
        except Exception as error:
            return _sentence(error)
        return ""


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else describe(error)


def run(command: str, texts: Mapping[str, str], names: Sequence[str] = (), on_progress: OnProgress = ignore) -> None:
    """Do all tasks of a command on the cluster at ``RAY_ADDRESS``, or on one of this machine's processors.

    A worker that is lost, with its node or alone, is replaced, and its task is done by another; so is one that fails,
    `TRIES` times in all.

    Raises:
        UserError: Ray is not installed, no worker comes up, or a task fails again and again.
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
        Tasks(ray, (command, str(Path.cwd()), dict(texts), list(names)), on_progress).run()
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

    def __init__(self, ray: Any, arguments: tuple[str, str, dict[str, str], list[str]], on_progress: OnProgress):
        self.ray, self.arguments, self.on_progress = ray, arguments, on_progress
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0)) if arguments[2].get("device", "auto") != "cpu" else 0
        self.workers = gpus or max(1, int(has.get("CPU", 1)))
        self.actor = ray.remote(**({"num_gpus": 1} if gpus else {"num_cpus": 1}))(Worker)
        self.preparing: dict[Any, Any] = {}  # what a worker promised -> the worker
        self.doing: dict[Any, tuple[Any, int]] = {}  # likewise, and the task
        self.idle: list[Any] = []
        self.total = 0  # known once a worker is prepared
        self.waiting: deque[int] = deque()
        self.left: set[int] = set()  # tasks that are not done
        self.failures: Counter[int] = Counter()
        self.problems: dict[int, str] = {}
        self.lost = 0  # workers, before they were prepared, one after the other

    def run(self) -> None:
        """Do all. Raises `UserError` for what cannot be done, once all else is."""
        for _ in range(self.workers):
            self._hire()
        heard = time.monotonic()
        while self.left or not self.total:
            ready, _ = self.ray.wait([*self.preparing, *self.doing], num_returns=1, timeout=10)
            if ready or self.doing:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise UserError(f"No worker came up on the Ray cluster in {PATIENCE:.0f} seconds: is a processor free?")
            for promise in ready:
                if promise in self.preparing:
                    self._prepared(promise)
                else:
                    self._done(promise)
            while self.idle and (number := self._next()) is not None:
                worker = self.idle.pop()
                self.doing[worker.do.remote(Share(number + 1, self.total))] = worker, number
        if self.problems:
            raise UserError(" ".join(dict.fromkeys(self.problems.values())))

    def _hire(self) -> None:
        worker = self.actor.remote(*self.arguments)
        self.preparing[worker.prepare.remote()] = worker

    def _prepared(self, promise: Any) -> None:
        worker = self.preparing.pop(promise)
        try:
            count, problem = self.ray.get(promise)
        except self.ray.exceptions.RayError as error:
            self.lost += 1
            if self.lost > TRIES * self.workers:
                raise UserError(f"Workers on the Ray cluster are lost before they begin: {describe(error)}.") from error
            self._hire()
            return
        self.lost = 0
        if problem and not (self.preparing or self.doing or self.idle):
            raise UserError(problem)
        if not problem:
            self.idle.append(worker)
            if not self.total:
                self.total, self.waiting, self.left = count, deque(range(count)), {*range(count)}

    def _done(self, promise: Any) -> None:
        worker, number = self.doing.pop(promise)
        try:
            problem = self.ray.get(promise)
            self.idle.append(worker)
        except self.ray.exceptions.RayError as error:
            problem = f"A task was lost with its worker {TRIES} times: {describe(error)}."
            self._hire()
        if number not in self.left:
            return  # another worker was quicker
        if not problem or (failed := self.failures[number] + 1) >= TRIES:
            self.left.discard(number)
            self.problems |= {number: problem} if problem else {}
            what = "teacher pass" if self.arguments[0] == "extract" else "trainings"
            self.on_progress(Progress(f"{what} on Ray", self.total - len(self.left), self.total, "task"))
        else:
            self.failures[number] = failed
            self.waiting.append(number)

    def _next(self) -> int | None:
        """The next task; when all are being done, the one that was begun first, a second time."""
        while self.waiting:
            if (number := self.waiting.popleft()) in self.left:
                return number
        copies = Counter(number for _, number in self.doing.values())
        return next((number for number, count in copies.items() if number in self.left and count < COPIES), None)
