"""Fixtures of the tests with a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ..jupyter import Jupyter, install, jupyter
from .person import Person, chromium, seated


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("fonts")) as browser:
        yield browser


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and return where: people before a browser have what users install."""
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def serve(prefix: Path) -> Callable[..., AbstractContextManager[Jupyter]]:
    """Start Jupyter as `jupyter` does, with nbtrain from its wheel."""
    return partial(jupyter, installed=prefix)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, serve) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("lab")
    with serve(folder / "notebooks", folder / "home") as server:
        yield server


@pytest.fixture
def person(browser: Browser, lab: Jupyter) -> Iterator[Person]:
    with seated(browser, lab) as person:
        person.theme("Light")
        yield person
