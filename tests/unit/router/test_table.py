"""The route table, against stories and against an oracle that is written another way."""

from collections import defaultdict
from ipaddress import ip_network

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galactic.messages import Endpoint, Route
from galactic.router.rib.path import Attachment, Holder, NodeRef, Segment
from galactic.router.rib.table import table

VPC, OTHER = 0x4D2, 0x4D3
FAR = 1 << 60
HORIZON = 1000
N1, N2, N3 = (NodeRef("default", name) for name in ("n1", "n2", "n3"))


def segments(topology, **nodes: tuple[Endpoint, ...]) -> dict[NodeRef, Segment]:
    return {
        NodeRef("default", name): Segment(topology.prefix(name), given_) for name, given_ in nodes.items()
    }


def routes(tables, vpc: int = VPC) -> dict[str, str]:
    """Network → node"""
    return (
        {network: route.node for network, route in tables.vpcs[vpc].routes.items()}
        if vpc in tables.vpcs
        else {}
    )


def installed(tables) -> dict[int, dict]:
    return {vpc: result.routes for vpc, result in tables.vpcs.items()}


def reasons(tables, vpc: int = VPC) -> list[str]:
    return [rejection.reason for rejection in tables.vpcs[vpc].rejections]


def test_two_endpoints_and_their_every_network(topology) -> None:
    registered = segments(
        topology,
        n1=(topology.endpoint("n1", 1, "10.1.1.1/32", "fd00::1/128"),),
        n2=(topology.endpoint("n2", 2, "10.1.1.2/32", "192.168.7.0/24"),),
    )
    result = table(registered, None, {}, HORIZON).vpcs[VPC].routes
    assert {network: (route.node, route.function) for network, route in result.items()} == {
        "10.1.1.1/32": ("n1", "0001"),
        "fd00::1/128": ("n1", "0001"),
        "10.1.1.2/32": ("n2", "0002"),
        "192.168.7.0/24": ("n2", "0002"),
    }
    assert result["10.1.1.1/32"].segments == ("2001:db8:ff01:100::4d2:1",)


def test_a_move_goes_to_the_newest_epoch_even_of_a_clock_that_runs_ahead(topology) -> None:
    before = table(
        segments(topology, n1=(topology.endpoint("n1", 1, "10.1.1.1/32", epoch=900),)), None, {}, HORIZON
    )
    assert routes(before) == {"10.1.1.1/32": "n1"}
    both = segments(
        topology,
        n1=(topology.endpoint("n1", 1, "10.1.1.1/32", epoch=900),),
        n2=(topology.endpoint("n2", 1, "10.1.1.1/32", epoch=901),),
    )
    after = table(both, None, installed(before), HORIZON)
    assert routes(after) == {"10.1.1.1/32": "n2"}
    assert reasons(after) == ["StaleEpoch"]


def test_an_epoch_too_far_ahead_is_rejected_unless_it_is_in_force(topology) -> None:
    registered = segments(topology, n1=(topology.endpoint("n1", 1, "10.1.1.1/32", epoch=FAR),))
    fresh = table(registered, None, {}, HORIZON)
    assert routes(fresh) == {}
    assert reasons(fresh) == ["EpochInFuture"]
    in_force = table(registered, None, {}, FAR)
    # A router whose own clock was set back must not withdraw what runs.
    assert routes(table(registered, None, installed(in_force), HORIZON)) == {"10.1.1.1/32": "n1"}


def test_the_holder_keeps_a_network_whatever_the_clocks_and_wherever_it_moves(topology) -> None:
    first = table(
        segments(topology, n1=(topology.endpoint("n1", 1, "10.1.1.9/32", epoch=50),)), None, {}, HORIZON
    )
    rival = topology.endpoint("n2", 2, "10.1.1.9/32", "10.1.1.2/32", epoch=10)
    contested = segments(topology, n1=(topology.endpoint("n1", 1, "10.1.1.9/32", epoch=50),), n2=(rival,))
    second = table(contested, None, installed(first), HORIZON)
    assert routes(second) == {"10.1.1.9/32": "n1", "10.1.1.2/32": "n2"}
    (conflict,) = second.vpcs[VPC].conflicts
    assert (conflict.network, conflict.path.function, conflict.owner.function) == ("10.1.1.9/32", 2, 1)

    moved = segments(topology, n2=(rival,), n3=(topology.endpoint("n3", 1, "10.1.1.9/32", epoch=60),))
    third = table(moved, None, installed(second), HORIZON)
    assert routes(third) == {"10.1.1.9/32": "n3", "10.1.1.2/32": "n2"}

    left = table(segments(topology, n2=(rival,)), None, installed(third), HORIZON)
    assert routes(left) == {"10.1.1.9/32": "n2", "10.1.1.2/32": "n2"}
    assert not left.vpcs[VPC].conflicts


def test_two_live_nodes_with_one_epoch_do_not_fight(topology) -> None:
    one, other = topology.endpoint("n1", 1, "10.1.1.1/32"), topology.endpoint("n2", 1, "10.1.1.1/32")
    both = segments(topology, n1=(one,), n2=(other,))
    assert routes(table(both, None, {}, HORIZON)) == {"10.1.1.1/32": "n1"}
    before = table(segments(topology, n2=(other,)), None, {}, HORIZON)
    assert routes(table(both, None, installed(before), HORIZON)) == {"10.1.1.1/32": "n2"}, (
        "the one in force stays"
    )


def test_a_network_without_a_holder_goes_to_the_first_attachment(topology) -> None:
    registered = segments(
        topology,
        n1=(topology.endpoint("n1", 1, "10.1.1.9/32", epoch=20),),
        n2=(topology.endpoint("n2", 2, "10.1.1.9/32", epoch=10),),
    )
    assert routes(table(registered, None, {}, HORIZON)) == {"10.1.1.9/32": "n2"}


def test_the_same_network_in_two_vpcs_is_two_networks(topology) -> None:
    registered = segments(
        topology,
        n1=(topology.endpoint("n1", 1, "10.1.1.1/32"), topology.endpoint("n1", 1, "10.1.1.1/32", vpc=OTHER)),
    )
    result = table(registered, None, {}, HORIZON)
    assert routes(result) == routes(result, OTHER) == {"10.1.1.1/32": "n1"}


def test_the_same_function_in_two_clusters_is_two_attachments(topology) -> None:
    registered = {
        NodeRef("east", "n1"): Segment(
            topology.prefix("n1"), (topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1),)
        ),
        NodeRef("west", "n2"): Segment(
            topology.prefix("n2"), (topology.endpoint("n2", 1, "10.1.1.2/32", epoch=2),)
        ),
    }
    assert routes(table(registered, None, {}, HORIZON)) == {"10.1.1.1/32": "n1", "10.1.1.2/32": "n2"}


def test_an_attachment_that_is_not_ready_stays_but_does_not_come(topology) -> None:
    registered = segments(topology, n1=(topology.endpoint("n1", 1, "10.1.1.1/32"),))
    ready = {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=True)}
    unready = {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=False)}
    assert routes(table(registered, unready, {}, HORIZON)) == {}
    before = table(registered, ready, {}, HORIZON)
    assert routes(table(registered, unready, installed(before), HORIZON)) == {"10.1.1.1/32": "n1"}


def test_a_node_takes_no_attachment_that_no_pod_of_it_carries(topology) -> None:
    """One that was taken over claims what a pod elsewhere has, with the newest epoch of all."""
    registered = segments(
        topology,
        n1=(topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1),),
        n2=(topology.endpoint("n2", 1, "10.1.1.1/32", epoch=9),),
    )

    def carried(*nodes: str) -> dict[str, Attachment]:
        return {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=True, nodes=frozenset(nodes))}

    for in_force in ({}, installed(table(registered, carried("n1"), {}, HORIZON))):
        computed = table(registered, carried("n1"), in_force, HORIZON)
        assert routes(computed) == {"10.1.1.1/32": "n1"}
        assert [(rejection.origin.node, rejection.reason) for rejection in computed.vpcs[VPC].rejections] == [
            ("n2", "NotCarried")
        ]
    moved = table(
        registered, carried("n1", "n2"), installed(table(registered, carried("n1"), {}, HORIZON)), HORIZON
    )
    assert routes(moved) == {"10.1.1.1/32": "n2"}
    withdrawn = table(registered, carried(), installed(moved), HORIZON)
    assert routes(withdrawn) == {"10.1.1.1/32": "n2"}, "what is installed stays until the node withdraws it"


NETWORKS = ["10.1.1.1/32", "10.1.1.2/32", "10.2.0.0/16", "fd00::/64"]
_endpoint = st.tuples(
    st.sampled_from([VPC, OTHER]),
    st.integers(1, 4),
    st.lists(st.sampled_from([*NETWORKS, "0.0.0.0/0", "10.1.1.1/8"]), max_size=3).map(tuple),
    st.one_of(st.integers(0, 6), st.just(FAR)),
)
worlds = st.dictionaries(
    st.tuples(st.sampled_from(["east", "west"]), st.sampled_from(["n1", "n2", "n3"])),
    st.lists(_endpoint, max_size=4),
    max_size=5,
)


def built(topology, drawn: dict) -> dict[NodeRef, Segment]:
    return {
        NodeRef(*who): Segment(
            topology.prefix(who[1]),
            tuple(
                topology.endpoint(who[1], function, *nets, epoch=epoch, vpc=vpc)
                for vpc, function, nets, epoch in registered
            ),
        )
        for who, registered in drawn.items()
    }


def oracle(
    registered: dict[NodeRef, Segment], in_force: dict[int, dict[str, Route]]
) -> dict[int, dict[str, tuple]]:
    """The table as one would explain it: VPC → network → (cluster, node, function, epoch)."""
    everything = defaultdict(list)  # (vpc, cluster, function) → [(epoch, in force, node, networks)]
    for ref, segment in registered.items():
        for endpoint in segment.endpoints:
            vpc, function = int(endpoint.vpc, 16), int(endpoint.function, 16)
            good = set()
            for text in endpoint.networks:
                net = ip_network(text, strict=False)
                if text == str(net):
                    good.add(text)
            present = any(
                (result.cluster, result.node, int(result.function, 16), result.epoch)
                == (*ref, function, endpoint.epoch)
                for text, result in in_force.get(vpc, {}).items()
                if text in good
            )
            if endpoint.epoch <= HORIZON or present:
                everything[vpc, ref.cluster, function].append((endpoint, present, ref.node, good))
    wanted = defaultdict(lambda: defaultdict(list))
    for (vpc, cluster, function), many in everything.items():
        newest = max(entry[0].epoch for entry in many)
        tied = [entry for entry in many if entry[0].epoch == newest]
        tied = [entry for entry in tied if entry[1]] or tied
        first = min(entry[2] for entry in tied)
        own = [entry for entry in tied if entry[2] == first]
        endpoint, _, node, good = max(
            own, key=lambda entry: (entry[0].sid, entry[0].attachment, tuple(sorted(entry[3])))
        )
        for text in good:
            wanted[vpc][text].append((cluster, node, function, endpoint.epoch))
    result = {}
    for vpc, networks in wanted.items():
        result[vpc] = {}
        for text, many in networks.items():
            before = in_force.get(vpc, {}).get(text)
            keeps = [
                entry
                for entry in many
                if before and (entry[0], entry[2]) == (before.cluster, int(before.function, 16))
            ]
            result[vpc][text] = (
                keeps[0] if keeps else min(many, key=lambda entry: (entry[3], entry[0], entry[2]))
            )
    return result


def routes_of(tables) -> dict[int, dict[str, tuple]]:
    return {
        vpc: {
            network: (route.cluster, route.node, int(route.function, 16), route.epoch)
            for network, route in result.routes.items()
        }
        for vpc, result in tables.vpcs.items()
        if result.routes
    }


def unique(drawn: dict) -> dict:
    """One endpoint an attachment and node: repeated ones are in test_claims."""
    return {
        who: list({(entry[0], entry[1]): entry for entry in registered}.values())
        for who, registered in drawn.items()
    }


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(before=worlds, now=worlds, data=st.data())
def test_the_oracle_agrees(topology, before: dict, now: dict, data: st.DataObject) -> None:
    first = table(built(topology, unique(before)), None, {}, HORIZON)
    registered = built(topology, unique(now))
    expected = oracle(registered, installed(first))
    second = table(registered, None, installed(first), HORIZON)
    assert routes_of(second) == {vpc: result for vpc, result in expected.items() if result}

    order = data.draw(st.permutations(list(registered)))
    shuffled = {
        node: Segment(registered[node].prefix, tuple(data.draw(st.permutations(registered[node].endpoints))))
        for node in order
    }
    assert table(shuffled, None, installed(first), HORIZON) == second, "the order of the input matters"
    again = table(registered, None, installed(second), HORIZON)
    assert routes_of(again) == routes_of(second), "applied to its own result it changes something"


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(now=worlds)
def test_every_network_has_one_answer_and_every_claim_is_accounted_for(topology, now: dict) -> None:
    result = table(built(topology, unique(now)), None, {}, HORIZON)
    for vpc in result.vpcs.values():
        lost = {(conflict.network, conflict.path.holder) for conflict in vpc.conflicts}
        for who, chosen in vpc.endpoints.items():
            for network in chosen.networks:
                has = vpc.routes[network]
                assert (Holder(has.cluster, int(has.function, 16)) == who) != ((network, who) in lost)
