"""The wire between this machine and the nodes: a bridge, with a cable to each of them.

Nodes have network namespaces of their own, so whatever they set up (the bridges of their pods,
kube-proxy's chains) goes when they go; on the machine itself there are one link, a few routes
that go with it, and the rules below.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass

from .shell import ClusterError, run, succeeds

LINK = "nbtrain0"
#: This machine, as its nodes see it: the API server, DNS and the registry are there.
HOST = "10.243.0.1"
NODES = ipaddress.ip_network("10.243.0.0/24")
PODS = ipaddress.ip_network("10.244.0.0/16")
SERVICES = ipaddress.ip_network("10.96.0.0/16")

#: What lets nodes talk to the machine, to each other and to the world, beside Docker's rules.
COMMENT = "nbtrain-test"
_RULES = [
    ["filter", "INPUT", "-i", LINK, "-j", "ACCEPT"],
    ["filter", "FORWARD", "-i", LINK, "-j", "ACCEPT"],
    ["filter", "FORWARD", "-o", LINK, "-j", "ACCEPT"],
    ["nat", "POSTROUTING", "-s", str(NODES), "!", "-o", LINK, "-j", "MASQUERADE"],
]


@dataclass(frozen=True)
class Cable:
    """What connects a node: the machine's end is named after its number."""

    number: int

    @property
    def link(self) -> str:
        return f"nbtrain{self.number}"

    @property
    def address(self) -> str:
        return str(NODES[10 + self.number])

    @property
    def pods(self) -> str:
        """The addresses of the node's pods."""
        return f"{PODS.network_address + 256 * self.number}/24"

    def plug(self, pid: int) -> None:
        """Give the network namespace of a process its end, named eth0."""
        end = ["peer", "eth0", "address", _hardware(self.address), "netns", str(pid)]
        run("ip", "link", "add", self.link, "type", "veth", *end)
        run("ip", "link", "set", self.link, "master", LINK, "up")
        run("ip", "route", "replace", self.pods, "via", self.address)

    def unplug(self) -> None:
        """Take the cable away, so that not even a farewell gets through.

        The kernel would do so when the namespace is gone, which it is not while a connection of
        it still waits for the other side.
        """
        _delete(self.link)


def up() -> None:
    """Make the bridge and let it through the machine's rules."""
    _check_free()
    run("ip", "link", "add", LINK, "address", _hardware(HOST), "type", "bridge")
    run("ip", "address", "add", f"{HOST}/{NODES.prefixlen}", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")  # as Docker has it, too
    for table, chain, *rule in _RULES:
        run("iptables", "-w", "-t", table, "-I", chain, *_marked(rule))


def down() -> None:
    """Remove what `up` made, and what it made in part."""
    for table, chain, *rule in _RULES:
        while succeeds("iptables", "-w", "-t", table, "-D", chain, *_marked(rule)):
            pass
    _delete(LINK)


def free_port(preferred: int = 0) -> int:
    """Return a port of loopback that nobody listens on: the preferred one where it can be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(address: str, port: int) -> bool:
    """Tell whether somebody does, at an address of this machine."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _hardware(address: str) -> str:
    """Return a hardware address that stays.

    A bridge would take one of its ports', so that with one node's cable all lost their way.
    """
    return ":".join(f"{byte:02x}" for byte in (2, 0, *ipaddress.ip_address(address).packed))


def _delete(link: str) -> None:
    if succeeds("ip", "link", "show", link):
        run("ip", "link", "delete", link)


def _marked(rule: list[str]) -> list[str]:
    return [*rule, "-m", "comment", "--comment", COMMENT]


def _check_free() -> None:
    """Raise where the machine has a network of its own at the cluster's addresses."""
    for route in json.loads(run("ip", "-json", "route")):
        if route["dst"] == "default":
            continue
        taken = ipaddress.ip_network(route["dst"], strict=False)
        for ours in (NODES, PODS, SERVICES):
            if taken.overlaps(ours):
                raise ClusterError(
                    f"this machine reaches {taken} by {route.get('dev')}, and the cluster needs "
                    f"{ours}: set NBTRAIN_TEST_CONTEXT to use a cluster of your own"
                )
