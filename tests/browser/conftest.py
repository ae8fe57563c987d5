"""Fixtures of the tests with a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from ..jupyter import Jupyter, jupyter
from .person import Person, chromium, seated


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("fonts")) as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("lab")
    with jupyter(folder / "notebooks", folder / "home") as server:
        yield server


@pytest.fixture
def person(browser: Browser, lab: Jupyter) -> Iterator[Person]:
    with seated(browser, lab) as person:
        yield person
