"""The hooks that a project's conftest.py may implement. Light to import, since pytest registers them everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvbench.studies.study import Study


@pytest.hookspec
def pytest_kvbench_studies(config: pytest.Config) -> Study | Sequence[Study]:  # type: ignore[empty-body]
    """Return the studies of this project, one or several.

    Example:
        >>> def pytest_kvbench_studies():
        ...     return Study("mine", "One linear head", (Student("linear", one_layer),))
    """
