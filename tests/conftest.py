"""Fixtures of all tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def nbtrain_home(tmp_path, monkeypatch):
    """Keep runs in a folder of the test's own, and see that no process of theirs is left."""
    from .harness import leftovers, until

    home = tmp_path / "home"
    monkeypatch.setenv("NBTRAIN_HOME", str(home))
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    yield home
    until(lambda: not leftovers(home))


@pytest.fixture(autouse=True)
def _quiet_tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert "TF_CONFIG" not in os.environ
