"""Changes of kernel, disk and pods in the middle of a pass of the node controller."""

import asyncio
from ipaddress import ip_network

from structlog.testing import capture_logs
from waits import until

from galactic.errors import Unreachable
from galactic.linux.objects import Encap, encap_key, packed, route_key
from galactic.messages import Route
from galactic.node.state.remote import Source, entry

KEY = (1234, 42)
HOST_END = "G0000000jU00GH"
PUT_BACK = "kernel objects changed by another program were put back"


def table(*last: int, node: int = 2, epoch: int = 1):
    """The routes of VPC 1234 to these addresses on that node."""
    return dict(
        entry(
            1234,
            "default",
            Route(
                f"10.1.1.{item}/32",
                (f"2001:db8:ff0{node}:100::4d2:{item:x}",),
                "default",
                "n",
                f"{item:04x}",
                epoch,
            ),
        )
        for item in last
    )


def set_table(store, revision, routes):
    store.set_table(1234, Source.MQTT, revision, routes)


def remote(node) -> dict[str, str]:
    """Last octet → node, of the networks that are routed elsewhere."""
    routes = node.kernel.host.routes.items()
    return {str(key[-1]): to.segment.hex()[11] for key, to in routes if isinstance(to, Encap)}


async def full(node):
    """A full round, from its beginning to its end."""
    before = node.metrics.full_sync._value.get()
    node.sync._resync.now()
    node.store.dirty.wake.set()
    await until(lambda: node.metrics.full_sync._value.get() != before)


def out_of_space(*_):
    raise Unreachable("records", "no space left on device")


async def test_a_pod_gives_way_to_another_while_the_kernel_is_read(node, config, monkeypatch):
    """The pass finds the VPC without pods and deletes its routes; a pod that came meanwhile needs them again."""
    await node.cni("ADD", config())
    set_table(node.store, 1, table(2, 3))
    await until(lambda: len(remote(node)) == 2)
    pod, read, routes = node.store.attachments[KEY], node.kernel.objects, node.kernel.routes

    async def leaving():
        monkeypatch.setattr(node.kernel, "objects", read)
        node.store.detach(KEY)
        return await read()

    async def coming(*arguments):
        monkeypatch.setattr(node.kernel, "routes", routes)
        node.store.attach(pod)
        if node.store.tables.view(1234, Source.MQTT) is None:  # as Following asks
            set_table(node.store, 1, table(2, 3))
        return await routes(*arguments)

    monkeypatch.setattr(node.kernel, "objects", leaving)
    monkeypatch.setattr(node.kernel, "routes", coming)
    await full(node)
    await until(lambda: HOST_END in node.kernel.host.links and len(remote(node)) == 2)


async def test_a_table_changes_while_a_pod_gives_way_to_another(node, config):
    """The table is changed in place: its users get the former values, or would not know the kernel's state."""
    await node.cni("ADD", config())
    routes = table(2, 3)
    set_table(node.store, 1, routes)
    await until(lambda: remote(node) == {"2": "2", "3": "2"})
    pod = node.store.attachments[KEY]
    node.store.detach(KEY)
    before = {network: routes.get(network) for network in table(3, 4)}
    routes |= table(3, 4, node=3)
    node.store.set_table(1234, Source.MQTT, 2, routes, before)
    node.store.attach(pod)
    await until(lambda: remote(node) == {"2": "2", "3": "3", "4": "3"})


async def test_what_was_taken_over_and_is_not_wanted_goes_at_once(node, config):
    """A route to an address that is here, which the life before did not come to delete."""
    await node.cni("ADD", config())
    vrf = node.kernel.host.links["G0000000jU000V"]
    await node.stop()
    segment = bytes.fromhex("20010db8ff02010000000000 04d20001")
    key = encap_key(vrf.table, packed(ip_network("10.1.1.1/32")), segment)
    node.kernel.host.routes[key] = Encap("lo-galactic", segment, "encap.red")
    await node.start()
    assert not remote(node)
    assert node.sync.routes == 0


async def test_a_record_that_cannot_be_written_keeps_no_route_waiting(node, config, monkeypatch):
    await node.cni("ADD", config())
    first = node.store.attachments[KEY]
    with monkeypatch.context() as full_disk:
        full_disk.setattr(node.store._checkpoint, "put", out_of_space)
        set_table(node.store, 1, table(2, 42, epoch=10**18))
        await until(lambda: "2" in remote(node))
        assert node.store.attachments[KEY] == first
    set_table(node.store, 2, table(2, 42, epoch=10**18))
    assert node.store.attachments[KEY].settled, "the next view is another chance"


async def test_a_change_that_cannot_be_recorded_is_registered_nevertheless(node, config, monkeypatch):
    await node.cni("ADD", config())
    changed = node.store.watch()
    changed.clear()
    monkeypatch.setattr(node.store._checkpoint, "put_node", out_of_space)
    assert (await node.cni("DEL", config())).code == 1
    assert changed.is_set()
    assert not node.store.registration().endpoints
    assert (await node.cni("DEL", config())).code == 0
    await until(lambda: HOST_END not in node.kernel.host.links)


async def test_an_add_that_cannot_be_recorded_leaves_nothing(node, config, monkeypatch):
    put_node, failed = node.store._checkpoint.put_node, []

    def first_fails(file):
        if not failed:
            failed.append(file)
            out_of_space()
        put_node(file)

    monkeypatch.setattr(node.store._checkpoint, "put_node", first_fails)
    assert (await node.cni("ADD", config())).body["code"] == 11
    assert failed
    assert not node.store.attachments
    assert not node.store._checkpoint.attachments()
    await until(lambda: set(node.kernel.host.links) == {"lo-galactic"})


async def test_an_add_that_cannot_be_recorded_leaves_what_others_attached(node, config, monkeypatch):
    """One that only the kernel knows may be a running pod's."""
    await node.cni("ADD", config())
    await node.stop()
    for path in (node.directory / "attachments").iterdir():
        path.unlink()
    await node.start()
    monkeypatch.setattr(node.store._checkpoint, "put", out_of_space)
    assert (await node.cni("ADD", config())).body["code"] == 11
    assert node.store.attachments.unaccounted == {KEY}
    assert HOST_END in node.kernel.host.links


async def test_a_dead_pods_record_that_cannot_be_removed_keeps_no_other_waiting(node, config, monkeypatch):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config())
    await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")
    monkeypatch.setattr(node.store._checkpoint, "remove", out_of_space)
    monkeypatch.setattr(node.sync._dataplane, "gone", lambda attachment: 9 * (attachment.key == KEY))
    node.sync._resync.now()
    async with asyncio.timeout(120):
        await node.sync.wait_applied((1234, 43))
    assert KEY in node.store.attachments


async def test_the_vpc_goes_while_missing_objects_are_read(node, config, monkeypatch):
    await node.cni("ADD", config())
    attachment, read = node.store.attachments[KEY], node.kernel.objects

    async def slowly():
        monkeypatch.setattr(node.kernel, "objects", read)
        node.store.detach(KEY)
        await until(lambda: not node.store.tables)
        return await read()

    monkeypatch.setattr(node.kernel, "objects", slowly)
    assert f"link {HOST_END}" in await node.sync.missing(attachment)


async def test_routes_of_a_vpc_without_pods_are_no_drift(node, config):
    await node.cni("ADD", config())
    set_table(node.store, 1, table(2, 3))
    await until(lambda: len(remote(node)) == 2)
    node.store.detach(KEY)
    with capture_logs() as logs:
        await full(node)
    assert not remote(node)
    assert PUT_BACK not in {entry["event"] for entry in logs}
    assert node.metrics.drift._value.get() == 0


async def test_unaccounted_objects_are_no_drift(node, config):
    await node.cni("ADD", config())
    await node.stop()
    for path in (node.directory / "attachments").iterdir():
        path.unlink()
    await node.start()
    assert await node.sync._dataplane.verify(), "nothing makes it read everything again and again"
    await full(node)
    node.store.release_unaccounted([KEY])
    await until(lambda: HOST_END not in node.kernel.host.links)
    assert node.metrics.drift._value.get() == 0


async def test_objects_lost_with_a_failure_are_no_drift(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.BACKOFF_SECONDS", (0.01, 0.01))
    await node.cni("ADD", config())
    write = node.kernel.write_encaps

    async def halfway(mode, jobs):
        monkeypatch.setattr(node.kernel, "write_encaps", write)
        await write(mode, [next(jobs)])
        raise Unreachable("kernel", "no memory")

    monkeypatch.setattr(node.kernel, "write_encaps", halfway)
    set_table(node.store, 1, table(2, 3, 4))
    await until(lambda: len(remote(node)) == 3)
    assert node.metrics.drift._value.get() == 0


async def test_objects_changed_by_another_program_are_named(node, config):
    await node.cni("ADD", config())
    set_table(node.store, 1, table(2, 3))
    await until(lambda: len(remote(node)) == 2)
    host = node.kernel.host
    (key,) = (key for key, to in host.routes.items() if isinstance(to, Encap) and key[-1] == 3)
    del host.routes[key]
    number = host.links["G0000000jU000V"].table
    host.routes[route_key(77, ip_network("9.9.9.9/32"))] = Encap("lo-galactic", bytes(16), "encap.red")
    node.kernel.lose_link(HOST_END)
    with capture_logs() as logs:
        await full(node)
    (event,) = (entry for entry in logs if entry["event"] == PUT_BACK)
    assert event["first"][:3] == [
        f"route 10.1.1.3/32 in table {number} gone or changed",
        "route 9.9.9.9/32 in table 77 added",
        f"link {HOST_END} gone or changed",
    ]
    assert event["objects"] > len(event["first"]) == 5
