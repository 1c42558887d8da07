"""Faults of files, disks and memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.laboratory import Laboratory, Result
from benchmarks.reliability.troubles import LittleMemory, Traced, can_trace, failing_calls


def flipped_bits(lab: Laboratory, tries: int) -> Result:
    """One bit of one file that a killed run left, anywhere in it."""
    result = Result("one bit flipped in a file that a killed run left")
    while result.tries < tries:
        lab.killed(0.2, 0.9)
        chosen = lab.left()
        if chosen is None:
            continue
        content = bytearray(chosen.read_bytes())
        place = (
            lab.draw.randrange(len(content)) if lab.draw.random() < 0.5 else lab.draw.randrange(min(256, len(content)))
        )
        content[place] ^= 1 << lab.draw.randrange(8)
        chosen.write_bytes(content)
        result.tries += 1
        result.where[chosen.suffix.lstrip(".") or chosen.name] += 1
        lab.settle(result, 1, f"{chosen.name}, byte {place}")
    return result


def truncated(lab: Laboratory, tries: int) -> Result:
    """One file that a killed run left, cut short."""
    result = Result("a file that a killed run left cut short")
    while result.tries < tries:
        lab.killed(0.2, 0.9)
        chosen = lab.left()
        if chosen is None:
            continue
        length = lab.draw.randrange(chosen.stat().st_size)
        with chosen.open("r+b") as file:
            file.truncate(length)
        result.tries += 1
        result.where[chosen.suffix.lstrip(".") or chosen.name] += 1
        lab.settle(result, 1, f"{chosen.name}, {length} bytes left")
    return result


def failing_files(lab: Laboratory, tries: int) -> Result:
    """System calls on files that fail, put in by strace."""
    result = Result("a system call on a file fails (EIO, ENOSPC), by strace")
    if not can_trace():
        result.note = "not tried: strace is not here, or may not trace"
        return result
    calls = [("fsync", "EIO"), ("write", "EIO"), ("write", "ENOSPC"), ("rename", "EIO"), ("read", "EIO"),
             ("openat", "EIO"), ("lseek", "EIO"), ("flock", "ENOLCK")]  # fmt: skip
    for place in range(tries):
        call, error = calls[place % len(calls)]
        number = lab.draw.randint(1, {"read": 300, "openat": 300, "lseek": 100}.get(call, 40))
        process = lab.project.start(trouble=Traced())
        assert process.pid is not None
        tracer = failing_calls(process.pid, call, error, number)
        process.join()
        tracer.wait()
        result.tries += 1
        result.where[call] += 1
        wrong = process.exitcode == 0 and lab.project.tables() not in {None, lab.expected}
        if wrong:
            result.lost.append(f"{call} number {number}: a run that passed has other tables")
        lab.settle(result, 1, f"{error} of {call} number {number}")
    return result


def full_disk(lab: Laboratory, tries: int) -> Result:
    """A disk of a few megabytes under the cache, then one with room."""
    result = Result("disk full (a small tmpfs under the cache)")
    for _ in range(tries):
        lab.project.cache.mkdir(exist_ok=True)
        size = lab.draw.randint(100, 12_000)
        with tmpfs(lab.project.cache, f"{size}k") as mounted:
            if not mounted:
                result.note = "not tried: a tmpfs cannot be mounted here"
                lab.project.forget()
                return result
            code = lab.project.run()
            result.tries += 1
            result.where[lab.project.stage()] += 1
            if "Traceback" in lab.project.output or (code == 0 and lab.project.tables() != lab.expected):
                result.lost.append(f"{size} KiB: exit code {code}, {lab.project.output[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=1g", str(lab.project.cache)], check=True)
            code, tables = lab.project.run(), lab.project.tables()
            if tables == lab.expected:
                result.survived += 1
            else:
                result.lost.append(f"{size} KiB, then room: exit code {code}, {lab.project.output[-300:]}")
        lab.project.forget()
    return result


def little_memory(lab: Laboratory, tries: int) -> Result:
    """Address space runs out at some point."""
    result = Result("memory runs out (a limit on address space)")
    for _ in range(tries):
        megabytes = lab.draw.choice([5, 10, 20, 40, 80, 160])
        code = lab.project.run(trouble=LittleMemory(megabytes))
        result.tries += 1
        result.where[lab.project.stage()] += 1
        if code == 0 and lab.project.tables() != lab.expected:
            result.lost.append(f"{megabytes} MB: a run that passed has other tables")
        lab.settle(result, 1, f"{megabytes} MB")
    return result


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[bool]:
    """Mount a tmpfs of that size on ``folder``; gives whether that could be done."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "kvbench", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)
