"""Who does which task again, on a Ray that is simulated: no task is lost, whatever happens to workers."""

from __future__ import annotations

import builtins
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.scale import SimulatedRay, Trouble, simulated
from kvbench.harness.engine import LOCAL, MOST, TRIES, Tasks, Worker, places_on, run
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

        def failing(stage: int = 0, share: Any = None) -> int:
            promise: int = do(stage, share)
            if share is None:
                return promise
            begun.append(share.number)
            if share.number in {4, 5}:
                ray._results[promise] = [], "the disk is full"
            return promise

        worker.do.remote = failing
        return worker

    ray._hire = hire  # type: ignore[method-assign]
    told: list[Progress] = []
    assert Tasks(ray, ARGUMENTS, told.append).run() == ["the disk is full"]
    assert {*begun} == {*range(1, 21)}
    assert TRIES <= begun.count(4) <= TRIES + 1
    assert (told[-1].done, told[-1].total) == (20, 20)


def test_many_tasks_are_dealt_out_as_some_for_each_worker() -> None:
    ray = simulated(5, 1000, 1.0, Trouble())
    assert {*ray.finished} == {*range(1, 1001)}
    assert 5 * MOST <= ray.begun <= 5 * MOST + 5
    assert 200 <= ray.now <= 200 + 2 * 1000 / (5 * MOST)


def test_who_waits_for_a_lost_worker_waits_for_its_successor_to_begin() -> None:
    assert simulated(10, 100, 1.0, Trouble(), begins=30.0).now == 40.0
    lone = simulated(1, 3, 100.0, Trouble(lost=1 / 200, absent=10.0), begins=50.0, seed=3)
    assert lone.begun > 3
    assert lone.now > 3 * 100 + 50 + (lone.begun - 3) * (10 + 50)


@pytest.mark.parametrize(
    ("device", "nodes", "count", "threads"),
    [
        ("auto", [{"CPU": 16.0}, {"CPU": 2.0}, {}], 18, {}),
        ("auto", [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}], 4, {"0": 4}),
        ("cuda", [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 6.0, "GPU": 1.0}], 9, {"0": 8, "1": 6}),
        ("auto", [{"CPU": 2.0, "GPU": 4.0}], 4, {"0": 1}),
        ("auto", [{"CPU": 96.0, "GPU": 8.0}, {"GPU": 1.0}], 9, {"0": 12, "1": 1}),
        ("cpu", [{"CPU": 16.0, "GPU": 4.0}], 16, {}),
        ("auto", [{"GPU": 0.0}], 1, {}),
    ],
)
def test_a_worker_has_a_processor_or_a_gpu_with_its_share_of_the_processors(
    device: str, nodes: list[dict[str, float]], count: int, threads: dict[str, int]
) -> None:
    lost = {"NodeID": "lost", "Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}
    every = [{"NodeID": str(k), "Alive": True, "Resources": one} for k, one in enumerate(nodes)]
    needs = {"num_gpus": 1, "num_cpus": 0} if threads else {"num_cpus": 1}
    assert places_on([lost, *every], device) == (count, needs, threads)


def test_a_worker_on_a_gpu_has_the_threads_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = SimpleNamespace(get_node_id=lambda: "b")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: here))
    for threads, wanted in (({}, "1"), ({"a": 12, "b": 6}, "6"), ({"a": 12}, "1")):
        Worker(threads, "extract", ".", [], [])
        assert os.environ["OMP_NUM_THREADS"] == wanted


@pytest.mark.parametrize(("address", "given"), [("", "local"), ("auto", None)])
def test_ray_is_started_here_unless_an_address_is_given(
    address: str, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, Ray would take any cluster that somebody started on this machine."""

    def init(**options: Any) -> None:
        raise RuntimeError(f"address: {options.get('address')}")

    for name in LOCAL:
        monkeypatch.setenv(name, LOCAL[name])
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError, match=f"Ray cannot be reached: RuntimeError: address: {given}"):
        run("extract", [{}])


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "ray":
            raise ImportError
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'kvbench\[ray\]'"):
        run("extract", [{}])
