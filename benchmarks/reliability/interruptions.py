"""Faults that end a run: kills, signals, another run beside it, and a clock that jumps meanwhile."""

from __future__ import annotations

import os
import signal
import time
from statistics import median

from benchmarks.reliability.laboratory import Laboratory, Result
from benchmarks.reliability.project import Project
from benchmarks.reliability.troubles import ClockJumps, KilledAtFile

KILLS_A_ROUND = 12  # a suite that is not through after so many kills is let run to its end


def kills(lab: Laboratory, tries: int) -> Result:
    """SIGKILL at random moments."""
    result = Result("SIGKILL at a random moment")
    while result.tries < tries:
        struck = 0
        while result.tries < tries and struck < KILLS_A_ROUND:
            process = lab.project.start()
            process.join(lab.draw.uniform(0, 0.6 * lab.seconds))
            if process.exitcode is not None:
                break  # it was through before
            process.kill()
            process.join()
            result.tries, struck = result.tries + 1, struck + 1
            result.where[lab.project.stage()] += 1
        if struck:
            lab.settle(result, struck, f"after {struck} kills")
        else:
            lab.project.forget()
    return result


def kills_at_files(lab: Laboratory, tries: int) -> Result:
    """SIGKILL at an act on a file: between writing and renaming, say."""
    result = Result("SIGKILL at a random act on a file (open, rename, remove)")
    while result.tries < tries:
        number = lab.draw.randint(1, 900)
        code = lab.project.run(trouble=KilledAtFile(lab.project.folder, number))
        if code == -signal.SIGKILL:
            result.tries += 1
            result.where[lab.project.stage()] += 1
            lab.settle(result, 1, f"killed at act {number}")
        else:
            lab.project.forget()
    return result


def signals(lab: Laboratory, tries: int) -> Result:
    """SIGINT and SIGTERM at random moments; how long the process takes to leave."""
    result, took, through = Result("SIGINT or SIGTERM at a random moment"), list[float](), 0
    while result.tries < tries:
        number, code = lab.draw.choice([(signal.SIGINT, 2), (signal.SIGTERM, 143)])
        process = lab.project.start()
        process.join(lab.draw.uniform(0.1, 0.8) * lab.seconds)
        if process.exitcode is not None or process.pid is None or not lab.project.cache.exists():
            process.join()
            lab.project.forget()
            continue
        result.where[lab.project.stage()] += 1
        start = time.perf_counter()
        os.kill(process.pid, number)
        process.join()
        result.tries += 1
        if process.exitcode == code:
            took.append(time.perf_counter() - start)
        elif process.exitcode in {0, 1}:  # the signal came at its end, or where Python lets none through
            through += 1
        else:
            result.lost.append(f"{number.name}: exit code {process.exitcode} instead of {code}")
        lab.settle(result, 1, number.name)
    took = took or [0.0]
    result.note = f"left with exit code 2 or 143 after {median(took):.1f} s, {max(took):.1f} s at most"
    result.note += f"; {through} went on to the end" if through else ""
    return result


def jumping_clock(lab: Laboratory, tries: int) -> Result:
    """The clock of the day jumps while a run is killed and goes on."""
    result = Result("the clock jumps by 30 days, back and forth, with a kill between")
    for _ in range(tries):
        lab.killed(0.3, 0.8, ClockJumps())
        result.tries += 1
        result.where[lab.project.stage()] += 1
        lab.settle(result, 1, "clock")
    return result


def two_at_once(lab: Laboratory, tries: int) -> Result:
    """Two suites on one cache, started within a second; one of them killed half of the time."""
    result = Result("two suites on one cache, one of them killed every other time")
    other = Project(lab.folder / "beside", lab.project)
    for number in range(tries):
        options = ("--kvbench-cache", str(lab.project.cache), "--kvbench-report", "report.md")
        first = other.start(*options)
        time.sleep(lab.draw.uniform(0, 1))
        second = lab.project.start()
        if number % 2:
            first.join(lab.draw.uniform(0, 0.8) * lab.seconds)
            first.kill()
        first.join()
        second.join()
        result.tries += 1
        result.where["a kill" if number % 2 else "none"] += 1
        if second.exitcode != lab.project.undisturbed_code or lab.project.tables() != lab.expected:
            result.lost.append(f"exit code {second.exitcode}: {lab.project.output[-300:]}")
        else:
            result.survived += 1
        lab.project.forget()
        other.forget()
    return result
