"""What befalls a process of the suite, from inside or from beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILE_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"})


@dataclass(frozen=True)
class KilledAtFile:
    """Ends the process by SIGKILL at its ``number``-th act on a file under ``folder``: opening, renaming, removing."""

    folder: Path
    number: int

    def __call__(self) -> None:
        """Take effect in this process."""
        left = self.number
        inside = str(self.folder)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event != "open" and event not in FILE_EVENTS:
                return
            name = arguments[0] if arguments else None
            if isinstance(name, (str, os.PathLike)) and os.fspath(name).startswith(inside):
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


@dataclass(frozen=True)
class ClockJumps:
    """The clock of the day jumps by hours, back and forth, at every look; the one that only counts goes on."""

    hours: float = 30 * 24

    def __call__(self) -> None:
        """Take effect in this process."""
        real: Callable[[], float] = time.time
        looks = [0]

        def jumping() -> float:
            looks[0] += 1
            return real() + (1 if looks[0] % 2 else -1) * self.hours * 3600

        time.time = jumping


@dataclass(frozen=True)
class LittleMemory:
    """No more than ``megabytes`` of address space beyond what the process has."""

    megabytes: int

    def __call__(self) -> None:
        """Take effect in this process."""
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + self.megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


@dataclass(frozen=True)
class Traced:
    """Waits until a tracer is attached, which `failing_calls` does."""

    seconds: float = 20

    def __call__(self) -> None:
        """Take effect in this process; raises `TimeoutError` where no tracer comes."""
        end = time.monotonic() + self.seconds
        while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            if time.monotonic() > end:
                raise TimeoutError("no tracer was attached")
            time.sleep(0.01)


def can_trace() -> bool:
    """Whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def failing_calls(pid: int, call: str, error: str, number: int) -> subprocess.Popen[bytes]:
    """Let the ``number``-th system call of that name of a `Traced` process, in any of its threads, end in ``error``."""
    inject = f"inject={call}:error={error}:when={number}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={call}", "-e", inject]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
