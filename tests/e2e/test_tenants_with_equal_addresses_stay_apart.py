"""Two VPCs use the same addresses; each reaches its own pods only, and neither reaches the underlay."""

from collections.abc import Callable

from story import Tenant, eventually


def test_apart(tenants: Callable[..., Tenant]) -> None:
    blue, green = tenants("blue"), tenants("green")
    for tenant in (blue, green):
        tenant.make_vpc()
        tenant.attach("one", "10.1.1.1/24", "2001:10:1:1::1/64")
        tenant.pod("one", "node-1")
    blue.attach("two", "10.1.1.2/24", "2001:10:1:1::2/64")
    blue.pod("two", "node-2")
    green.attach("three", "10.1.1.3/24", "2001:10:1:1::3/64")
    green.pod("three", "node-2")
    for address in ("10.1.1.2", "2001:10:1:1::2"):
        blue.reaches("one", address)
        assert not green.ping("one", address)
    for address in ("10.1.1.3", "2001:10:1:1::3"):
        green.reaches("one", address)
        assert not blue.ping("one", address)
    two = eventually("it is recorded where it is", lambda: blue.endpoint("two"))
    for tenant in (blue, green):
        assert not tenant.ping("one", "fd00:1::2"), "leaks into the main table"
        assert not tenant.ping("one", two["sid"]), "reaches a SID"
