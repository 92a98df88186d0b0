"""The difference of kernel objects."""

from ipaddress import ip_address, ip_interface, ip_network

from galactic.linux.objects import Direct, Link, Objects, Via, change, route_key

FOUR, SIX = ip_interface("169.254.1.1/32"), ip_interface("fe80::1/64")
HOP = ip_address("fe80::2")
KEPT, SURPLUS = (route_key(10, ip_network(text)) for text in ("2001:db8::/64", "2001:db8:1::/64"))


def objects(master: str) -> Objects:
    return Objects(
        links={"e": Link("veth", master=master), "h": Link("veth", master="v")},
        addresses={("e", FOUR): False, ("e", SIX): False, ("h", SIX): False},
        routes={KEPT: Via("e", HOP.packed)},
        neighbours={("e", HOP): None},
    )


def test_what_the_kernel_drops_with_another_vrf_is_set_again():
    actual = objects("v")
    actual.routes[SURPLUS] = Direct("e")
    made = change(objects("w"), actual)
    assert set(made.links.set) == {"e"}
    assert set(made.addresses.set) == {("e", SIX)}
    assert set(made.routes.set) == {KEPT}
    assert set(made.routes.delete) == {SURPLUS}
    assert set(made.neighbours.set) == {("e", HOP)}


def test_with_the_same_vrf_nothing_is():
    assert not change(objects("v"), objects("v"))
