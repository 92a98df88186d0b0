"""The table of a VPC from MQTT's last table and the API server's endpoints: which routes are added, stay, and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.messages import Route
from galactic.node.kubernetes.fallback_table import Endpoint, compose, endpoint
from galactic.node.state.remote import View, entry, pack

VPC, OWN, OTHER = 1234, "default", "west"
R = 1000


def sid(node, function):
    return f"2001:db8:ff0{node}:100::4d2:{function}"


def route(last, node, function, epoch, cluster=OWN):
    return Route(
        f"10.1.1.{last}/32", (sid(node, function),), cluster, f"node-{node}", f"{function:04}", epoch
    )


def base(*routes, revision=R):
    return View(revision, dict(entry(VPC, OWN, one) for one in routes))


def recorded(last, node, function, epoch, revision):
    networks = tuple(f"10.1.1.{one}/32" for one in (last if isinstance(last, tuple) else (last,)))
    return Endpoint(f"node-{node}", sid(node, function), OWN, networks, epoch, revision)


def leads(table):
    """Network → (node, function), in words."""
    return {
        ".".join(map(str, network[-4:])): (int(known[5]), int.from_bytes(known[14:16], "big"))
        for network, known in table.routes.items()
    }


A, B = route(1, 1, 1, 50), route(2, 2, 2, 50)
FAR = route(9, 7, 1, 50, OTHER)
HERE_A, HERE_B = recorded(1, 1, 1, 50, R), recorded(2, 2, 2, 50, R)


@pytest.mark.parametrize(
    ("known", "endpoints", "deleted", "wanted"),
    [
        pytest.param((A, B), (HERE_A, HERE_B), {}, None, id="both-say-the-same"),
        pytest.param((A, B), (), {}, None, id="what-the-api-server-does-not-know-yet-stays"),
        pytest.param((A, FAR), (HERE_A,), {}, None, id="other-clusters-stay"),
        pytest.param(
            (A,),
            (HERE_A, recorded(2, 2, 2, 50, R + 5)),
            {},
            {"10.1.1.1": (1, 1), "10.1.1.2": (2, 2)},
            id="one-more",
        ),
        pytest.param(
            (A,),
            (recorded(2, 2, 2, 50, R),),
            {},
            {"10.1.1.1": (1, 1), "10.1.1.2": (2, 2)},
            id="one-more-one-too-low",
        ),
        pytest.param(
            (A,), (recorded(2, 2, 2, 50, R - 1),), {}, None, id="the-table-has-decided-about-what-is-older"
        ),
        pytest.param(
            (A,), (recorded(1, 3, 1, 60, R - 5),), {}, {"10.1.1.1": (3, 1)}, id="moved-newest-epoch-wins"
        ),
        pytest.param((A,), (recorded(1, 3, 1, 40, R + 5),), {}, None, id="an-older-epoch-never-wins"),
        pytest.param(
            (A,), (recorded((1, 3), 1, 1, 50, R - 1),), {}, None, id="other-networks-but-recorded-before"
        ),
        pytest.param(
            (A,),
            (recorded((3, 4), 1, 1, 50, R + 1),),
            {},
            {"10.1.1.3": (1, 1), "10.1.1.4": (1, 1)},
            id="other-networks-of-the-same-endpoint",
        ),
        pytest.param((A, B), (HERE_B,), {1: 50}, {"10.1.1.2": (2, 2)}, id="seen-to-go"),
        pytest.param((A, FAR), (), {1: 70}, {"10.1.1.9": (7, 1)}, id="seen-to-go-from-where-it-had-moved-to"),
        pytest.param((A, B), (HERE_B,), {1: 49}, None, id="an-earlier-one-went"),
        pytest.param(
            (A, B),
            (recorded(1, 2, 2, 60, R + 1),),
            {},
            {"10.1.1.1": (2, 2)},
            id="a-network-changes-its-holder",
        ),
        pytest.param(
            (),
            (recorded(1, 1, 1, 50, R), recorded(1, 2, 2, 50, R + 1)),
            {},
            {"10.1.1.1": (2, 2)},
            id="later-recorded-has-it",
        ),
        pytest.param(
            (FAR,),
            (recorded(1, 1, 1, 50, R),),
            {},
            {"10.1.1.9": (7, 1), "10.1.1.1": (1, 1)},
            id="same-function-in-another-cluster",
        ),
    ],
)
def test_composed(known, endpoints, deleted, wanted):
    detached = {(VPC, function): epoch for function, epoch in deleted.items()}
    whole = compose(VPC, OWN, base(*known), endpoints, detached)
    if wanted is None:
        assert whole is None
    else:
        assert leads(whole) == wanted
        assert whole.revision == max([R, *(one.revision for one in endpoints)]) + 1


def test_without_a_table_all_that_the_api_server_knows_is_one():
    whole = compose(VPC, OWN, None, (recorded(1, 1, 1, 50, 7), recorded(2, 2, 2, 50, 3)), {})
    assert leads(whole) == {"10.1.1.1": (1, 1), "10.1.1.2": (2, 2)}
    assert whole.revision == 8
    assert compose(VPC, OWN, None, (), {}) == View(1, {})


def test_a_network_that_is_none_is_left_out():
    whole = compose(VPC, OWN, base(A), (recorded((2, "0/24"), 2, 2, 50, R),), {})
    assert leads(whole) == {"10.1.1.1": (1, 1), "10.1.1.2": (2, 2)}


NODES, FUNCTIONS, EPOCHS = st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)


@given(
    st.dictionaries(FUNCTIONS, st.tuples(NODES, EPOCHS)),
    st.dictionaries(FUNCTIONS, st.tuples(NODES, EPOCHS)),
    st.integers(R - 1, R + 1),
)
def test_once_mqtt_has_everything_the_api_server_adds_nothing(known, newer, revision):
    """And until then no attachment is sent back to an older endpoint."""
    table = base(*(route(one, node, one, epoch) for one, (node, epoch) in known.items()))
    endpoints = [recorded(one, node, one, epoch, revision) for one, (node, epoch) in newer.items()]
    whole = compose(VPC, OWN, table, endpoints, {})
    result = whole or table
    for one, (_, epoch) in known.items():
        composed = result.routes[pack(f"10.1.1.{one}/32")]
        assert int.from_bytes(composed[16:24], "big") >= epoch
    if whole:
        assert compose(VPC, OWN, whole, endpoints, {}) is None


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"node": "n"}, id="no-sid"),
        pytest.param({"node": "n", "sid": "x"}, id="no-address"),
        pytest.param({"node": "n", "sid": "2001:db8::"}, id="reserved"),
        pytest.param({"node": "n", "sid": "2001:db8:ff01:100::4d3:1"}, id="another-vpc"),
        pytest.param({"node": "n", "sid": sid(1, 1), "epoch": "new"}, id="no-number"),
        pytest.param("node-1", id="no-object"),
    ],
)
def test_an_endpoint_in_an_unknown_form(given):
    with pytest.raises(Rejected):
        endpoint(VPC, {"endpoint": given})


def test_an_endpoint():
    assert endpoint(VPC, {}) is None
    path = endpoint(VPC, {"endpoint": {"node": "n", "sid": sid(1, 2), "since": "2026-01-01T00:00:00Z"}})
    assert (path.node, path.key) == ("n", (VPC, 2))


PEER = VPC + 1
PEERS = {PEER: (pack("10.1.2.0/24"),)}


def of_peer(last, node, function, epoch, *, revision=R, cluster=OWN):
    """An endpoint of the peer, and the route that the VPC imports for it."""
    segment = f"2001:db8:ff0{node}:100::4d3:{function}"
    network = f"10.1.2.{last}/32"
    made = Endpoint(f"node-{node}", segment, cluster, (network, "10.9.0.0/16"), epoch, revision)
    return made, Route(network, (segment,), cluster, f"node-{node}", f"{function:04}", epoch)


THEIRS, IMPORTED = of_peer(1, 2, 1, 50)


@pytest.mark.parametrize(
    ("known", "endpoints", "detached", "wanted"),
    [
        pytest.param((A, IMPORTED), (HERE_A, THEIRS), {}, None, id="both-have-the-same"),
        pytest.param((A, IMPORTED), (HERE_A,), {}, None, id="not-recorded-yet"),
        pytest.param(
            (A,),
            (HERE_A, of_peer(1, 2, 1, 50, revision=R - 100)[0]),
            {},
            {"10.1.1.1": (1, 1), "10.1.2.1": (2, 1)},
            id="peered-since",
        ),
        pytest.param(
            (A, IMPORTED),
            (HERE_A, of_peer(1, 3, 1, 60)[0]),
            {},
            {"10.1.1.1": (1, 1), "10.1.2.1": (3, 1)},
            id="moved",
        ),
        pytest.param((A, IMPORTED), (HERE_A,), {(PEER, 1): 50}, {"10.1.1.1": (1, 1)}, id="seen-to-go"),
        pytest.param(
            (A, IMPORTED), (), {(VPC, 1): 50}, {"10.1.2.1": (2, 1)}, id="a-namesake-of-the-vpc-itself-went"
        ),
        pytest.param(
            (A, of_peer(9, 7, 1, 50, cluster=OTHER)[1]),
            (HERE_A, THEIRS),
            {},
            {"10.1.1.1": (1, 1), "10.1.2.9": (7, 1), "10.1.2.1": (2, 1)},
            id="of-another-cluster-stays",
        ),
        pytest.param((route("2.1", 3, 4, 50),), (THEIRS,), {}, None, id="the-vpc-keeps-its-own-route"),
    ],
)
def test_composed_with_a_peer(known, endpoints, detached, wanted):
    known = tuple(
        Route(
            one.network.replace("10.1.1.2.1", "10.1.2.1"),
            *(getattr(one, name) for name in Route.__struct_fields__[1:]),
        )
        for one in known
    )
    whole = compose(VPC, OWN, base(*known), endpoints, detached, PEERS)
    assert (None if whole is None else leads(whole)) == wanted


def test_of_another_vpc_that_is_no_peer_nothing_counts():
    assert compose(VPC, OWN, base(A), (HERE_A, THEIRS), {}) is None
