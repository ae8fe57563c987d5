"""pytest's fixtures of the cluster, and what it has to know of the marker `cluster`."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import pytest

from . import access, lifecycle, objects, up
from .daemon import until
from .shell import ClusterError


@pytest.fixture(scope="session")
def cluster() -> Iterator[bool]:
    """Have a cluster, and end it with the session if the session has booted it.

    The value tells whether it has: what ends or breaks the cluster asks for that.
    """
    booted = up()
    yield booted
    if booted and not os.environ.get("NBTRAIN_KEEP_CLUSTER"):
        lifecycle.down()


@pytest.fixture
def breakable(cluster: bool) -> None:
    """Leave a test out where the cluster is the developer's own: what it does needs ours."""
    if access.own_context():
        pytest.skip("a cluster of your own is used, and is not broken on purpose")


@pytest.fixture
def namespace(cluster: bool) -> Iterator[str]:
    """Give a test a restricted namespace of its own, and see that it leaves nothing there."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    objects.create_namespace(name)
    try:
        yield name
        with contextlib.suppress(ClusterError):  # pods take their time to end
            until(f"{name} is empty", lambda: not objects.left_in(name), timeout=60)
        assert objects.left_in(name) == []
    finally:
        objects.core_api().delete_namespace(name)
        if access.own_context() is None:
            objects.recycle_volumes()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of the cluster last: its binaries may be built while the others run."""
    for item in items:
        in_containers = {"docker", "cluster"} & {mark.name for mark in item.iter_markers()}
        if in_containers and not item.get_closest_marker("timeout"):
            # The first of them waits for the image's or the binaries' build; the test itself has
            # its usual time.
            item.add_marker(pytest.mark.timeout(300, func_only=True))
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)
