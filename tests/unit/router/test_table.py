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


def segments(world, **nodes: tuple[Endpoint, ...]) -> dict[NodeRef, Segment]:
    return {NodeRef("default", name): Segment(world.prefix(name), given_) for name, given_ in nodes.items()}


def routes(tables, vpc: int = VPC) -> dict[str, str]:
    """Network → node"""
    return (
        {network: route.node for network, route in tables.vpcs[vpc].routes.items()}
        if vpc in tables.vpcs
        else {}
    )


def held(tables) -> dict[int, dict]:
    return {vpc: found.routes for vpc, found in tables.vpcs.items()}


def reasons(tables, vpc: int = VPC) -> list[str]:
    return [rejection.reason for rejection in tables.vpcs[vpc].rejections]


def test_two_endpoints_and_their_every_network(world) -> None:
    said = segments(
        world,
        n1=(world.endpoint("n1", 1, "10.1.1.1/32", "fd00::1/128"),),
        n2=(world.endpoint("n2", 2, "10.1.1.2/32", "192.168.7.0/24"),),
    )
    found = table(said, None, {}, HORIZON).vpcs[VPC].routes
    assert {network: (route.node, route.function) for network, route in found.items()} == {
        "10.1.1.1/32": ("n1", "0001"),
        "fd00::1/128": ("n1", "0001"),
        "10.1.1.2/32": ("n2", "0002"),
        "192.168.7.0/24": ("n2", "0002"),
    }
    assert found["10.1.1.1/32"].segments == ("2001:db8:ff01:100::4d2:1",)


def test_a_move_goes_to_the_newest_epoch_even_of_a_clock_that_runs_ahead(world) -> None:
    before = table(
        segments(world, n1=(world.endpoint("n1", 1, "10.1.1.1/32", epoch=900),)), None, {}, HORIZON
    )
    assert routes(before) == {"10.1.1.1/32": "n1"}
    both = segments(
        world,
        n1=(world.endpoint("n1", 1, "10.1.1.1/32", epoch=900),),
        n2=(world.endpoint("n2", 1, "10.1.1.1/32", epoch=901),),
    )
    after = table(both, None, held(before), HORIZON)
    assert routes(after) == {"10.1.1.1/32": "n2"}
    assert reasons(after) == ["StaleEpoch"]


def test_an_epoch_too_far_ahead_is_not_believed_unless_it_is_in_force(world) -> None:
    said = segments(world, n1=(world.endpoint("n1", 1, "10.1.1.1/32", epoch=FAR),))
    fresh = table(said, None, {}, HORIZON)
    assert routes(fresh) == {}
    assert reasons(fresh) == ["EpochInFuture"]
    in_force = table(said, None, {}, FAR)
    # A router whose own clock was set back must not withdraw what runs.
    assert routes(table(said, None, held(in_force), HORIZON)) == {"10.1.1.1/32": "n1"}


def test_the_holder_keeps_a_network_whatever_the_clocks_say_and_wherever_it_moves(world) -> None:
    first = table(segments(world, n1=(world.endpoint("n1", 1, "10.1.1.9/32", epoch=50),)), None, {}, HORIZON)
    rival = world.endpoint("n2", 2, "10.1.1.9/32", "10.1.1.2/32", epoch=10)
    contested = segments(world, n1=(world.endpoint("n1", 1, "10.1.1.9/32", epoch=50),), n2=(rival,))
    second = table(contested, None, held(first), HORIZON)
    assert routes(second) == {"10.1.1.9/32": "n1", "10.1.1.2/32": "n2"}
    (conflict,) = second.vpcs[VPC].conflicts
    assert (conflict.network, conflict.path.function, conflict.owner.function) == ("10.1.1.9/32", 2, 1)

    moved = segments(world, n2=(rival,), n3=(world.endpoint("n3", 1, "10.1.1.9/32", epoch=60),))
    third = table(moved, None, held(second), HORIZON)
    assert routes(third) == {"10.1.1.9/32": "n3", "10.1.1.2/32": "n2"}

    left = table(segments(world, n2=(rival,)), None, held(third), HORIZON)
    assert routes(left) == {"10.1.1.9/32": "n2", "10.1.1.2/32": "n2"}
    assert not left.vpcs[VPC].conflicts


def test_two_live_nodes_with_one_epoch_do_not_fight(world) -> None:
    one, other = world.endpoint("n1", 1, "10.1.1.1/32"), world.endpoint("n2", 1, "10.1.1.1/32")
    both = segments(world, n1=(one,), n2=(other,))
    assert routes(table(both, None, {}, HORIZON)) == {"10.1.1.1/32": "n1"}
    before = table(segments(world, n2=(other,)), None, {}, HORIZON)
    assert routes(table(both, None, held(before), HORIZON)) == {"10.1.1.1/32": "n2"}, "the one in force stays"


def test_a_network_that_nobody_had_goes_to_who_attached_first(world) -> None:
    said = segments(
        world,
        n1=(world.endpoint("n1", 1, "10.1.1.9/32", epoch=20),),
        n2=(world.endpoint("n2", 2, "10.1.1.9/32", epoch=10),),
    )
    assert routes(table(said, None, {}, HORIZON)) == {"10.1.1.9/32": "n2"}


def test_the_same_network_in_two_vpcs_is_two_networks(world) -> None:
    said = segments(
        world,
        n1=(world.endpoint("n1", 1, "10.1.1.1/32"), world.endpoint("n1", 1, "10.1.1.1/32", vpc=OTHER)),
    )
    found = table(said, None, {}, HORIZON)
    assert routes(found) == routes(found, OTHER) == {"10.1.1.1/32": "n1"}


def test_the_same_function_in_two_clusters_is_two_attachments(world) -> None:
    said = {
        NodeRef("east", "n1"): Segment(
            world.prefix("n1"), (world.endpoint("n1", 1, "10.1.1.1/32", epoch=1),)
        ),
        NodeRef("west", "n2"): Segment(
            world.prefix("n2"), (world.endpoint("n2", 1, "10.1.1.2/32", epoch=2),)
        ),
    }
    assert routes(table(said, None, {}, HORIZON)) == {"10.1.1.1/32": "n1", "10.1.1.2/32": "n2"}


def test_an_attachment_that_is_not_ready_stays_but_does_not_come(world) -> None:
    said = segments(world, n1=(world.endpoint("n1", 1, "10.1.1.1/32"),))
    ready = {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=True)}
    unready = {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=False)}
    assert routes(table(said, unready, {}, HORIZON)) == {}
    before = table(said, ready, {}, HORIZON)
    assert routes(table(said, unready, held(before), HORIZON)) == {"10.1.1.1/32": "n1"}


def test_a_node_takes_no_attachment_that_no_pod_of_it_carries(world) -> None:
    """One that was taken over claims what a pod elsewhere has, with the newest epoch of all."""
    said = segments(
        world,
        n1=(world.endpoint("n1", 1, "10.1.1.1/32", epoch=1),),
        n2=(world.endpoint("n2", 1, "10.1.1.1/32", epoch=9),),
    )

    def carried(*nodes: str) -> dict[str, Attachment]:
        return {"ns/a1": Attachment(VPC, 1, frozenset({"10.1.1.1/32"}), ready=True, nodes=frozenset(nodes))}

    for in_force in ({}, held(table(said, carried("n1"), {}, HORIZON))):
        computed = table(said, carried("n1"), in_force, HORIZON)
        assert routes(computed) == {"10.1.1.1/32": "n1"}
        assert [(one.origin.node, one.reason) for one in computed.vpcs[VPC].rejections] == [
            ("n2", "NotCarried")
        ]
    moved = table(said, carried("n1", "n2"), held(table(said, carried("n1"), {}, HORIZON)), HORIZON)
    assert routes(moved) == {"10.1.1.1/32": "n2"}
    gone = table(said, carried(), held(moved), HORIZON)
    assert routes(gone) == {"10.1.1.1/32": "n2"}, "what is installed stays until the node withdraws it"


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


def built(world, drawn: dict) -> dict[NodeRef, Segment]:
    return {
        NodeRef(*who): Segment(
            world.prefix(who[1]),
            tuple(
                world.endpoint(who[1], function, *nets, epoch=epoch, vpc=vpc)
                for vpc, function, nets, epoch in said
            ),
        )
        for who, said in drawn.items()
    }


def oracle(
    said: dict[NodeRef, Segment], in_force: dict[int, dict[str, Route]]
) -> dict[int, dict[str, tuple]]:
    """The table as one would explain it: VPC → network → (cluster, node, function, epoch)."""
    everything = defaultdict(list)  # (vpc, cluster, function) → [(epoch, in force, node, networks)]
    for origin, segment in said.items():
        for endpoint in segment.endpoints:
            vpc, function = int(endpoint.vpc, 16), int(endpoint.function, 16)
            good = set()
            for text in endpoint.networks:
                net = ip_network(text, strict=False)
                if net.prefixlen and text == str(net):
                    good.add(text)
            present = any(
                (found.cluster, found.node, int(found.function, 16), found.epoch)
                == (*origin, function, endpoint.epoch)
                for text, found in in_force.get(vpc, {}).items()
                if text in good
            )
            if endpoint.epoch <= HORIZON or present:
                everything[vpc, origin.cluster, function].append((endpoint, present, origin.node, good))
    wanted = defaultdict(lambda: defaultdict(list))
    for (vpc, cluster, function), many in everything.items():
        newest = max(it[0].epoch for it in many)
        tied = [it for it in many if it[0].epoch == newest]
        tied = [it for it in tied if it[1]] or tied
        first = min(it[2] for it in tied)
        own = [it for it in tied if it[2] == first]
        endpoint, _, node, good = max(own, key=lambda it: (it[0].sid, it[0].attachment, tuple(sorted(it[3]))))
        for text in good:
            wanted[vpc][text].append((cluster, node, function, endpoint.epoch))
    result = {}
    for vpc, networks in wanted.items():
        result[vpc] = {}
        for text, many in networks.items():
            before = in_force.get(vpc, {}).get(text)
            keeps = [
                it for it in many if before and (it[0], it[2]) == (before.cluster, int(before.function, 16))
            ]
            result[vpc][text] = keeps[0] if keeps else min(many, key=lambda it: (it[3], it[0], it[2]))
    return result


def told(tables) -> dict[int, dict[str, tuple]]:
    return {
        vpc: {
            network: (route.cluster, route.node, int(route.function, 16), route.epoch)
            for network, route in found.routes.items()
        }
        for vpc, found in tables.vpcs.items()
        if found.routes
    }


def unique(drawn: dict) -> dict:
    """One endpoint an attachment and node: what a node says twice is judged in test_claims."""
    return {who: list({(it[0], it[1]): it for it in said}.values()) for who, said in drawn.items()}


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(before=worlds, now=worlds, data=st.data())
def test_the_oracle_agrees(world, before: dict, now: dict, data: st.DataObject) -> None:
    first = table(built(world, unique(before)), None, {}, HORIZON)
    said = built(world, unique(now))
    expected = oracle(said, held(first))
    second = table(said, None, held(first), HORIZON)
    assert told(second) == {vpc: found for vpc, found in expected.items() if found}

    order = data.draw(st.permutations(list(said)))
    shuffled = {
        origin: Segment(said[origin].prefix, tuple(data.draw(st.permutations(said[origin].endpoints))))
        for origin in order
    }
    assert table(shuffled, None, held(first), HORIZON) == second, "the order of the input matters"
    again = table(said, None, held(second), HORIZON)
    assert told(again) == told(second), "applied to its own result it changes something"


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(now=worlds)
def test_every_network_has_one_answer_and_every_claim_is_accounted_for(world, now: dict) -> None:
    found = table(built(world, unique(now)), None, {}, HORIZON)
    for vpc in found.vpcs.values():
        lost = {(conflict.network, conflict.path.holder) for conflict in vpc.conflicts}
        for who, chosen in vpc.endpoints.items():
            for network in chosen.networks:
                has = vpc.routes[network]
                assert (Holder(has.cluster, int(has.function, 16)) == who) != ((network, who) in lost)
