"""Fixtures of all tests."""

from __future__ import annotations

import os
import tempfile
import uuid
from typing import Any

import pytest

pytest_plugins = ["tests.cluster.fixtures", "tests.progress"]


#: Tests that one process has to run one after the other, where several run tests: those of the
#: matrix share workers, those of containers look at all that the engine or the cluster has.
GROUPS = {
    "matrix": ("tests/matrix/", "tests/real/"),
    "machine": ("tests/cluster/", "tests/test_contract", "tests/test_docker", "tests/test_kube"),
}
#: Takes longest of all, and would have one process work alone at the end.
FIRST = "tests/test_soak.py"
#: Tests of other files that are in containers or pods say so by the id of their place.
OF_MACHINE = ("[docker", "[kubernetes")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a group together, and share out all others one by one."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if any(map(nodeid.__contains__, OF_MACHINE)):
                return "machine"
            found = (g for g, begins in GROUPS.items() if nodeid.startswith(begins))
            return next(found, nodeid)

    return ByGroup(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell CI of a failure at once: a run that is cut short has no summary."""
    if report.failed and os.environ.get("CI") and not os.environ.get("PYTEST_XDIST_WORKER"):
        print(f"\n=== FAILED: {report.nodeid}\n{report.longreprtext}", flush=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell `tools/test.py` what was skipped; in CI nothing that needs containers may be."""
    if hasattr(session.config, "workerinput"):
        return  # one of several processes; the one that has them all tells
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and (path := os.environ.get("NBTRAIN_SKIPPED")):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{one.nodeid}: {one.longrepr[2]}\n" for one in skipped)
    if os.environ.get("CI") and any({"cluster", "docker"} & set(one.keywords) for one in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def nbtrain_home(request, tmp_path, monkeypatch):
    """Keep runs in a folder of the test's own, and see that no process of theirs is left.

    The runs of an engine are those of others, unless the test is about containers.
    """
    from nbtrain import backends, run

    from .harness import leftovers, until

    if not any(map(request.node.get_closest_marker, ("docker", "cluster"))):
        monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")  # where nothing answers
        monkeypatch.setattr(backends.get("docker"), "_connected", None)
    home = tmp_path / "home"
    monkeypatch.setenv("NBTRAIN_HOME", str(home))
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setattr(run, "_here", {})
    yield home
    until(lambda: not leftovers(home))


@pytest.fixture
def temporary(nbtrain_home, monkeypatch):
    """Have `tempfile` use a folder of the test's own, so that a test can see what is left there."""
    folder = nbtrain_home / "tmp"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _quiet_tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert "TF_CONFIG" not in os.environ


@pytest.fixture(scope="session")
def s3():
    """Run moto's S3 server; return a client of it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkey = pytest.MonkeyPatch()
    monkey.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkey.setenv("AWS_ACCESS_KEY_ID", "test")
    monkey.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkey.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield boto3.client("s3")
    monkey.undo()
    server.stop()


@pytest.fixture
def bucket(s3):
    name = f"test-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    return name
