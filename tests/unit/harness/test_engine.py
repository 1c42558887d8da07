"""Who does which task again, on a Ray that is simulated: no task is lost, whatever happens to workers."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from benchmarks.scale import SimulatedRay, Trouble, simulated
from kvbench.harness.engine import TRIES, Tasks, run
from kvbench.utils.errors import UserError
from kvbench.utils.progress import Progress, ignore

ALL = {*range(1, 101)}
ARGUMENTS = ("extract", ".", [{"device": "cpu"}], list[str]())


def test_workers_share_tasks_evenly() -> None:
    ray = simulated(10, 100, 1.0, Trouble())
    assert ray.now == 10.0
    assert ray.begun < 110, "whoever has nothing to do begins another's task again, once"
    assert {*ray.finished} == ALL


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(spread=0.5),
        Trouble(slow=0.3, slowness=50.0),
        Trouble(lost=1 / 15, absent=3.0),
        Trouble(failing=0.05),
        Trouble(0.3, 20.0, 0.5, 1 / 100, 5.0, 0.03),
    ],
)
def test_whatever_happens_every_task_is_done(trouble: Trouble, seed: int) -> None:
    assert {*simulated(10, 100, 1.0, trouble, seed).finished} == ALL


def test_a_slow_worker_keeps_nobody() -> None:
    ray = SimulatedRay(10, 100, 1.0, Trouble(slow=0.1, slowness=1000.0), seed=2)
    Tasks(ray, ARGUMENTS, ignore).run()
    assert {*ray.finished} == ALL
    assert ray.now < 20
    assert 100 < ray.begun <= 100 + 10


def test_what_always_fails_is_told_once_all_else_is_done() -> None:
    ray = SimulatedRay(3, 20, 1.0, Trouble())
    work = ray._hire
    begun: list[int] = []

    def hire(*_: Any) -> Any:
        worker = work()
        do = worker.do.remote

        def failing(stage: int, share: Any) -> int:
            promise: int = do(stage, share)
            begun.append(share.number)
            if share.number in {4, 5}:
                ray._results[promise] = None, "the disk is full"
            return promise

        worker.do.remote = failing
        return worker

    ray._hire = hire  # type: ignore[method-assign]
    told: list[Progress] = []
    assert Tasks(ray, ARGUMENTS, told.append).run() == ["the disk is full"]
    assert {*begun} == {*range(1, 21)}
    assert TRIES <= begun.count(4) <= TRIES + 1
    assert (told[-1].done, told[-1].total) == (20, 20)


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ray":
            raise ImportError
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'kvbench\[ray\]'"):
        run("extract", [{}])
