"""What ``import kvbench`` brings along."""

from __future__ import annotations

import subprocess
import sys


def test_importing_kvbench_imports_nothing_heavy() -> None:
    code = (
        "import sys, kvbench; print(*{'torch', 'torchvision', 'pandas', 'numpy', 'scipy', 'pytest'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_a_study_is_read_without_torch() -> None:
    code = "import sys, kvbench.studies.registry; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
