"""A short soak; `make soak` makes the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_runs_with_faults_at_random_moments_end_as_if_nothing_had_happened(tmp_path):
    report = tmp_path / "soak.md"
    command = [sys.executable, "-m", "tests.soak", "--runs", "20", "--report", str(report)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "| runs | 20 |" in report.read_text()
