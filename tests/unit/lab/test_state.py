"""A lab's numbering and names, and what its fabric is made of."""

from ipaddress import IPv6Network
from pathlib import Path
from types import SimpleNamespace

import pytest

from galactic.errors import Rejected
from galactic_lab import state
from galactic_lab.kernel import fabric
from galactic_lab.kernel.kernels import choose
from galactic_lab.kernel.nodeless import Nodeless
from galactic_lab.state import MAX_NODES, SRV6_SPACE, State


def test_every_node_has_a_prefix_of_its_own_inside_the_space() -> None:
    prefixes = [node.prefix for node in State("x", nodes=MAX_NODES).members]
    assert len(set(prefixes)) == MAX_NODES
    assert all(prefix.subnet_of(SRV6_SPACE) for prefix in prefixes)
    assert prefixes[1] == IPv6Network("2001:db8:ff02:100::/56")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(State("second"), "node-1", id="in-a-guest-of-its-own"),
        pytest.param(State("second", join="default"), "second-node-1", id="in-the-guest-of-another-lab"),
    ],
)
def test_namespaces_have_names_of_their_own(state: State, expected: str) -> None:
    assert state.members[0].namespace == expected


def test_a_lab_without_nodes_needs_no_kernel_of_its_own() -> None:
    assert isinstance(choose(State("x", nodes=0)), Nodeless)


def test_the_error_for_an_unknown_node_names_the_known_ones() -> None:
    with pytest.raises(Rejected, match="node-1, node-2"):
        State("x", nodes=2).node("node-3")


def test_latency_is_added_at_both_ends_of_a_nodes_link() -> None:
    def delays(state: State) -> list[list[str]]:
        return [step.argv for step in fabric.node(state, state.members[0]) if step.argv[0] == "tc"]

    assert delays(State("x")) == []
    assert ["10ms" in argv for argv in delays(State("x", latency=20))] == [True, True]


def test_ports_stay_free_until_the_lab_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are none of those that the kernel gives to connections, and none that another lab has chosen."""
    monkeypatch.setattr(state, "HOME", tmp_path)
    monkeypatch.setattr(state, "PORTS", 64)
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for number in range(8):
        one = State(f"lab-{number}", database=True, prometheus=True).with_ports()
        one.save()
        assert one.with_ports() == one
        ports += [one.port, one.database_port, one.prometheus_port]
    assert len(set(ports)) == len(ports)
    assert all(port < first for port in ports)


@pytest.mark.parametrize(("total", "shared"), [(2**26, False), (2**34, True)], ids=["container", "machine"])
def test_etcd_is_in_memory_where_there_is_enough(
    total: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(state.SHARED_MEMORY), "is_mount", lambda _: True)
    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: SimpleNamespace(total=total))
    assert State("x").memory.is_relative_to(state.SHARED_MEMORY) == shared
