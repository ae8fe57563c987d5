"""Fixtures of all tests."""

from __future__ import annotations

import os
import uuid

import pytest

from nbtrain import backends


@pytest.fixture
def nbtrain_home(tmp_path, monkeypatch):
    """Keep runs in a folder of the test's own, and see that no process of theirs is left."""
    from .harness import processes, until

    mark = f"nbtrain-test-{uuid.uuid4().hex}"
    monkeypatch.setenv("NBTRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHON_NBTRAIN_MARK", mark)
    yield tmp_path / "home"
    backends.get("local").close()  # an unclaimed spare process ends with its backend
    until(lambda: not processes(mark), timeout=20)


@pytest.fixture(autouse=True)
def _quiet_tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert "TF_CONFIG" not in os.environ
