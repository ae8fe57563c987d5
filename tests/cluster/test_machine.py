"""What the cluster says of a machine that lacks something, and of a process that fails."""

from __future__ import annotations

import json

import pytest

from . import access, binaries, daemon, machine, network
from .daemon import Daemon, until
from .shell import ClusterError, run


@pytest.fixture
def component(tmp_path):
    """Make daemons in a folder of the test's own, and end them."""
    yield lambda name: Daemon(name, tmp_path)
    for process in daemon.known(tmp_path):
        process.kill()


def test_missing_packages_are_named_in_one_line_with_the_command_that_installs_them(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("NBTRAIN_TEST_CONTEXT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(machine.PACKAGES, "containernetworking-plugins", "/nowhere/bridge")
    lines = [line for line in machine.lacking() if "apt-get update" in line]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    for package in ("docker.io", "docker-registry", "containernetworking-plugins"):
        assert package in lines[0].split("apt-get install")[1]


def test_a_cluster_of_the_developers_own_is_used_as_its_only_user(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("NBTRAIN_TEST_CONTEXT", "kind-mine")
    monkeypatch.setattr(access, "CACHE", tmp_path)
    monkeypatch.setattr(access, "run", lambda *words: asked.append(words) or '{"kind": "Config"}')
    for user in ("admin", "user"):
        assert json.loads(access.kubeconfig(user).read_text()) == {"kind": "Config"}
        assert {"--context=kind-mine", "--output=json"} <= set(asked.pop())
    with pytest.raises(ClusterError, match="unset NBTRAIN_TEST_CONTEXT"):
        access.kubeconfig("plugin")


@pytest.mark.parametrize(
    ("check", "amount", "line"),
    [
        (machine._go, {"GO": (99, 0)}, "Go 99.0 or newer is missing"),
        (machine._disk, {"DISK_GB": 1e9}, "docker system prune"),
        (machine._memory, {"MEMORY_GB": 1e9}, "end other programs"),
        (machine._engine, {"engine_answers": lambda: False}, machine.INSTALL),
    ],
)
def test_what_else_a_machine_lacks_is_said_with_what_to_do(monkeypatch, check, amount, line):
    for name, value in amount.items():
        monkeypatch.setattr(machine, name, value)
    assert line in check()


def test_a_missing_program_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="iptables is not installed"):
        run("iptables", "-S")


def test_a_command_that_fails_is_repeated_with_its_last_words():
    with pytest.raises(ClusterError, match=r"(?s)`ls /nowhere` failed with status .*No such file"):
        run("ls", "/nowhere")


def test_a_component_that_fails_is_named_with_the_end_of_its_log(component):
    broken = component("scheduler")
    broken.start("sh", "-c", "echo first; echo the port is taken >&2; exit 3")
    with pytest.raises(ClusterError, match=r"(?s)scheduler has ended; .*first\nthe port is taken"):
        until("it answers", lambda: False, broken)


def test_a_component_that_never_answers_is_named_with_the_end_of_its_log(component):
    silent = component("etcd")
    silent.start("sh", "-c", "echo waiting for a peer; exec sleep 60")
    until("it speaks", silent.said)
    with pytest.raises(ClusterError, match=r"(?s)until it answers.*waiting for a peer"):
        until("it answers", lambda: False, silent, timeout=0.1)


def test_a_killed_component_is_gone_and_a_later_process_with_its_number_is_not_taken_for_it(
    component,
):
    sleeper = component("sleeper")
    sleeper.start("sleep", "60")
    pid = sleeper.pid
    assert pid
    stale = component("stale")
    stale.file.write_text(f"{pid} 1")
    assert stale.pid is None
    sleeper.kill()
    assert sleeper.pid is None
    assert daemon.gone(pid)


def test_the_binaries_are_known_by_what_they_are_built_from(tmp_path, monkeypatch):
    (tmp_path / "go.mod").write_text("module a")
    monkeypatch.setattr(binaries, "SOURCES", tmp_path)
    before = binaries.folder()
    assert binaries.folder() == before
    (tmp_path / "go.sum").write_text("a sum")
    assert binaries.folder() != before


def test_a_network_at_the_clusters_addresses_is_named(monkeypatch):
    monkeypatch.setattr(network, "run", lambda *_: '[{"dst": "10.0.0.0/8", "dev": "vpn0"}]')
    with pytest.raises(ClusterError, match=r"10\.0\.0\.0/8 by vpn0.*NBTRAIN_TEST_CONTEXT"):
        network.up()
