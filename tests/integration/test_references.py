"""The references that ship with kvbench."""

from __future__ import annotations

from kvbench.findings.judge import judge
from kvbench.reference import store
from kvbench.reference.changes import verdict_changes
from kvbench.results import history
from kvbench.studies.kv_memory import STUDY
from tests.support import EXPECTED

DESIGN = STUDY.design


def test_every_shipped_reference_loads_and_its_verdicts_are_what_its_histories_say() -> None:
    assert "imagenet" in store.available(EXPECTED, DESIGN)
    for workload in store.available(EXPECTED, DESIGN):
        shipped = store.load(EXPECTED, workload, DESIGN)
        judged = judge(shipped.histories, DESIGN, shipped.costs)
        names = history.configurations(shipped.histories)
        changes = verdict_changes(shipped, judged, names)
        assert [change.describe() for change in changes] == []
        assert len(shipped.recorded) == sum(len(j.gating) for j in judged)
