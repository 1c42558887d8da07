"""A Ray cluster of two nodes with a processor each, on this machine; ``python -m tests.support.cluster`` is one.

It prints its address, and obeys the lines that it reads: ``kill`` takes the second node away, ``add`` adds one, any
other ends it all.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

import pytest

from kvbench.harness.engine import LOCAL
from tests.support import ROOT
from tests.support.jobs import PATIENCE, Jobs, content_of

HERE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
COMES_UP = 60.0  # seconds; it takes about ten
NEEDED = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'kvbench[test-scale]'"
)
# Disturbances, each once: they take away the file that asks for them. SLOW is for every task.
DISTURBED = """
import time

def asked(name):
    try:
        HERE.joinpath(name).unlink()
    except FileNotFoundError:
        return False
    return True

def disturbed(act):
    def disturbed(*arguments, **options):
        if asked("hangs"):
            time.sleep(3600)
        if asked("raises"):
            raise RuntimeError("of the test's")
        time.sleep(HERE.joinpath("slow").exists())
        return act(*arguments, **options)
    return disturbed

from kvbench.harness import setup, tasks
setup.fill = disturbed(setup.fill)
tasks.train = disturbed(tasks.train)
"""


class Nodes:
    """A cluster in a process of its own."""

    def __init__(self) -> None:
        env = {**os.environ, **LOCAL, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.address = self._line("come up")

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line.strip())

    def _line(self, what: str) -> str:
        try:
            return self._lines.get(timeout=COMES_UP)
        except Empty:
            self.end()
            pytest.fail(f"A Ray cluster on this machine does not {what} within {COMES_UP:.0f} seconds.")

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self._line(f"obey {word!r}") == "done"

    def close(self) -> None:
        try:
            self.process.communicate("end\n", timeout=COMES_UP)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.end()

    def end(self) -> None:
        """Kill it, and what it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A block with a cluster."""
    found = Nodes()
    try:
        yield found
    finally:
        found.close()


@contextmanager
def jobs_on(nodes: Nodes, path: Path) -> Iterator[Jobs]:
    """A block with a project whose tasks can be disturbed, and whose processes use a cluster."""
    with Jobs(path) as made, pytest.MonkeyPatch.context() as patch:
        conftest = path / "conftest.py"
        conftest.write_text(conftest.read_text() + DISTURBED)
        for name, value in {**LOCAL, "RAY_ADDRESS": nodes.address}.items():
            patch.setenv(name, value)
        yield made


def wait(until: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait while a process works until something is the case."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert process.poll() is None, process.communicate(timeout=60)
        assert time.monotonic() < end
        time.sleep(0.1)


def same_banks(jobs: Jobs, one: str, other: str) -> bool:
    """Whether the banks in two caches are the same, byte for byte."""
    banks = [
        [next((jobs.path / cache).glob(f"tiny-{split}-*")) for split in ("train", "val")] for cache in (one, other)
    ]
    return [content_of(bank) for bank in banks[0]] == [content_of(bank) for bank in banks[1]]


def main() -> None:
    os.environ.update(LOCAL)
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={**HERE, "include_dashboard": False})
    node = cluster.add_node(**HERE)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "kill\n":
            cluster.remove_node(node, allow_graceful=False)
        elif line == "add\n":
            node = cluster.add_node(**HERE)
        else:
            break
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
