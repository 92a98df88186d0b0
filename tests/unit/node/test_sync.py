"""Desired minus actual against a kernel that others meddle with."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from waits import until

from galactic import names
from galactic.linux.events import Changed
from galactic.linux.objects import Direct, Encap, EndDT46, change, route_key
from galactic.messages import Route
from galactic.node.dataplane.plan import POD_METRIC
from galactic.node.dataplane.sync import Sync
from galactic.node.state.remote import Source, entry

HOST_END = "G0000000jU00GH"
IPV4_KEY = 13
"""Bytes of the key of an IPv4 route."""


def route(last: int, node: int = 2, epoch: int = 1, function: int = 0) -> Route:
    sid = f"2001:db8:ff0{node}:100::4d2:{function or last:x}"
    return Route(f"10.1.1.{last}/32", (sid,), "default", f"node-{node}", f"{function or last:04x}", epoch)


def set_table(store, revision, routes):
    """Sets a whole table, as MQTT does."""
    store.set_table(1234, Source.MQTT, revision, dict(entry(1234, "default", item) for item in routes))


def remote(node) -> set[str]:
    """The last octets of the networks that are routed elsewhere."""
    return {str(key[-1]) for key, to in node.kernel.host.routes.items() if isinstance(to, Encap)}


async def test_a_node_without_a_prefix_waits_and_starts_once_it_has_one(node):
    asked = 0

    def unknown():
        nonlocal asked
        asked += 1
        if asked > 100:
            raise AssertionError("polls without end, and no other task gets a turn")

    known, facts = [], node.sync._host
    sync = Sync(node.kernel, node.store, lambda: facts() if known else unknown(), node.metrics)
    task = asyncio.create_task(sync.run())
    try:
        await until(lambda: asked or task.done())
        assert not sync.ready.is_set()
        known.append(True)
        node.store.dirty.mark_host()
        await until(lambda: sync.ready.is_set() or task.done())
        assert not task.done(), task.exception()
    finally:
        task.cancel()


async def test_remote_routes_follow_the_table(node, config):
    await node.cni("ADD", config())
    set_table(node.store, 1, [route(2), route(3)])
    await until(lambda: remote(node) == {"2", "3"})
    reads = node.kernel.reads
    set_table(node.store, 2, [route(3), route(4)])
    await until(lambda: remote(node) == {"3", "4"})
    assert node.kernel.reads == reads, "a change is written without reading everything"


def local(node) -> set[str]:
    """The last octets of the IPv4 addresses that pods here have, as the kernel's routes say."""
    routes = node.kernel.host.routes.items()
    return {str(key[-1]) for key, to in routes if isinstance(to, Direct) and len(key) == 13}


async def test_the_holder_of_a_network_wins_on_the_rivals_node_too(node, config):
    await node.cni("ADD", config())
    (attachment,) = node.store.attachments.values()
    set_table(node.store, 1, [route(2)])
    await until(lambda: remote(node) == {"2"})
    assert local(node) == {"1"}, "no other attachment has it"
    set_table(node.store, 2, [route(1, function=9), route(2)])
    await until(lambda: remote(node) == {"1", "2"})
    assert local(node) == set()
    assert not await node.sync.missing(attachment)
    assert node.store.registration().endpoints[0].networks[0] == "10.1.1.1/32", "it still wants it"
    set_table(node.store, 3, [route(1, node=3, function=9, epoch=1 << 62), route(2)])
    ways = node.kernel.host.routes
    await until(lambda: any(isinstance(to, Encap) and to.segment[5] == 3 for to in ways.values()))
    assert local(node) == set(), "the holder has moved, and still holds it"
    set_table(node.store, 4, [route(2)])
    await until(lambda: local(node) == {"1"} and remote(node) == {"2"})


async def test_a_pod_that_moved_here_is_reached_here_while_the_table_is_behind(node, config):
    await node.cni("ADD", config())
    (attachment,) = node.store.attachments.values()
    moved = route(1, function=attachment.function, epoch=attachment.epoch - 1)
    set_table(node.store, 1, [moved, route(2)])
    await until(lambda: remote(node) == {"2"})
    assert local(node) == {"1"}
    set_table(node.store, 2, [route(1, function=attachment.function, epoch=attachment.epoch + 1), route(2)])
    await until(lambda: remote(node) == {"1", "2"} and local(node) == set())


async def test_of_two_rivals_here_the_one_that_the_router_chose_has_the_network(node, config):
    await node.cni("ADD", config())
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config("H"), container="c2", netns="/ns/2")
    older, newer = sorted(node.store.attachments.values(), key=lambda attachment: attachment.epoch)

    def device():
        return {
            to.device for key, to in node.kernel.host.routes.items() if key[-1:] == b"\1" and len(key) == 13
        }

    assert device() == {names.host_end(*older.key)}
    set_table(node.store, 1, [route(1, node=1, epoch=newer.epoch, function=newer.function)])
    await until(lambda: device() == {names.host_end(*newer.key)})


async def test_a_table_that_comes_late_is_not_written(node, config, monkeypatch):
    """The last pod has gone, and the broker has not processed the node's unsubscription yet."""
    await node.cni("ADD", config())
    set_table(node.store, 1, [route(2), route(3)])
    await until(lambda: remote(node) == {"2", "3"})
    reads, write = node.kernel.reads, node.kernel.write

    async def meanwhile(wanted):
        await write(wanted)
        set_table(node.store, 2, [route(2)])

    monkeypatch.setattr(node.kernel, "write", meanwhile)
    await node.cni("DEL", config())
    assert HOST_END not in node.kernel.host.links
    await until(lambda: not node.store.tables)
    assert not remote(node)
    assert node.kernel.reads == reads


async def test_a_pod_that_gives_way_takes_no_route_with_it(node, config):
    await node.cni("ADD", config())
    set_table(node.store, 1, [route(2), route(3)])
    await until(lambda: remote(node) == {"2", "3"})
    deleted = []
    write = node.kernel.write_encaps

    async def watched(mode, jobs):
        jobs = list(jobs)
        deleted.extend(key for key, _, deleted in jobs if deleted)
        await write(mode, jobs)

    node.kernel.write_encaps = watched
    node.kernel.remove_namespace("/ns/1")
    node.kernel.add_namespace("/ns/2")
    assert (await node.cni("ADD", config(), container="c2", netns="/ns/2")).code == 0
    assert remote(node) == {"2", "3"}
    assert not deleted


async def test_the_last_pod_goes_while_routes_are_being_written(node, config, monkeypatch):
    await node.cni("ADD", config())
    set_table(node.store, 1, [route(2), route(3)])
    await until(lambda: remote(node) == {"2", "3"})
    write, writing, go_on = node.kernel.write_encaps, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments):
        writing.set()
        await go_on.wait()
        await write(*arguments)

    monkeypatch.setattr(node.kernel, "write_encaps", slowly)
    reads = node.kernel.reads
    set_table(node.store, 2, [route(2), route(4)])
    await writing.wait()
    node.store.detach(next(iter(node.store.attachments)))
    go_on.set()
    await until(lambda: HOST_END not in node.kernel.host.links)
    await until(lambda: not remote(node))
    assert not node.store.tables
    assert node.kernel.reads == reads, "it is known what there is to delete"


async def test_tables_of_vpcs_not_hosted_are_ignored(node):
    set_table(node.store, 1, [route(2)])
    await asyncio.sleep(0.1)
    assert not remote(node)


async def test_drift_is_put_back_and_counted(node, config):
    await node.cni("ADD", config())
    node.kernel.lose_link("lo-galactic")
    node.kernel.host.routes[route_key(100_000, ip_network("9.9.9.9/32"))] = Encap(
        "lo-galactic", bytes(16), "encap"
    )
    node.sync.on_external_change()
    await until(lambda: "lo-galactic" in node.kernel.host.links)
    await until(lambda: not remote(node))
    await until(lambda: node.metrics.drift._value.get() > 0)


async def test_a_pods_inside_is_part_of_it(node, config):
    await node.cni("ADD", config())
    inside = node.kernel.namespaces["/ns/1"]["galactic0"]
    before = dict(inside.routes)
    inside.routes.clear()
    node.sync.on_external_change()
    await until(lambda: inside.routes == before)


async def test_new_networks_reach_running_pods(node, config):
    await node.cni("ADD", config())
    await node.cni("ADD", config(networks=["10.1.1.0/24", "10.2.0.0/16"]))
    key = route_key(254, ip_network("10.2.0.0/16"), POD_METRIC)
    assert key in node.kernel.namespaces["/ns/1"]["galactic0"].routes


async def test_a_pod_that_died_without_del_is_forgotten(node, config, monkeypatch):
    """However slow a machine is: the kernel notifies once that the link is gone."""
    monkeypatch.setattr("galactic.node.dataplane.sync.VERIFY_SECONDS", 0.2)
    monkeypatch.setattr("galactic.node.dataplane.sync.VERIFY_SHARE", 10**6)
    await node.cni("ADD", config())
    node.kernel.remove_namespace("/ns/1")
    node.sync.on_external_change()
    await until(lambda: not node.store.attachments)
    await until(lambda: HOST_END not in node.kernel.host.links)
    assert HOST_END not in node.kernel.host.links


async def test_routes_survive_a_restart_until_a_whole_table_is_known(node, config):
    await node.cni("ADD", config())
    set_table(node.store, 1, [route(2), route(3)])
    await until(lambda: remote(node) == {"2", "3"})
    await node.stop()
    await node.start()
    await asyncio.sleep(0.1)
    assert remote(node) == {"2", "3"}
    set_table(node.store, 2, [route(3)])
    await until(lambda: remote(node) == {"3"})


async def test_an_interface_that_leads_to_an_earlier_pod_is_replaced_at_start(node, config):
    """DEL and ADD both came while the veth of the first pod could not be removed."""
    await node.cni("ADD", config())
    await node.stop()
    node.kernel.add_namespace("/ns/2")
    await node.cni("DEL", config())
    await node.start()
    assert (await node.cni("ADD", config(), container="c2", netns="/ns/2")).code == 0
    assert node.kernel.peers[HOST_END] == ("/ns/2", "galactic0")


async def test_vrf_tables_keep_their_numbers(node, config):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config(vpc="jV"), container="c2", netns="/ns/2")
    await node.cni("ADD", config())
    tables = {name: link.table for name, link in node.kernel.host.links.items() if name.endswith("V")}
    await node.cni("DEL", config(vpc="jV"), container="c2", netns="/ns/2")
    await node.stop()
    await node.start()
    assert node.kernel.host.links["G0000000jU000V"].table == tables["G0000000jU000V"]


async def test_an_epoch_taken_without_knowledge_is_corrected_once(node, config):
    await node.cni("ADD", config())
    first = node.store.attachments[1234, 42]
    ahead = first.epoch + 10**18
    set_table(node.store, 1, [route(1, epoch=ahead, function=42)])
    corrected = node.store.attachments[1234, 42]
    assert corrected.epoch > ahead
    set_table(node.store, 2, [route(1, epoch=corrected.epoch + 10**18, function=42)])
    assert node.store.attachments[1234, 42].epoch == corrected.epoch, (
        "two live holders must not outbid each other"
    )


async def test_an_epoch_exceeds_the_tables_at_add(node, config):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config("H", last=7), container="c2", netns="/ns/2")
    ahead = node.store.attachments[1234, 43].epoch + 10**18
    set_table(node.store, 1, [route(1, epoch=ahead, function=42)])
    await node.cni("ADD", config())
    assert node.store.attachments[1234, 42].epoch == ahead + 1


async def lose_records(node):
    """The node's own memory is gone; the kernel is as it was."""
    await node.stop()
    for path in (node.directory / "attachments").iterdir():
        path.unlink()


async def test_attachments_without_a_record_stay_until_they_are_accounted_for(node, config):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config())
    await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")
    set_table(node.store, 1, [route(9)])
    await until(lambda: remote(node) == {"9"})
    known = dict(node.store.attachments)
    before = await node.kernel.read()
    await lose_records(node)
    await node.start()
    assert node.store.attachments.unaccounted == set(known)
    assert not node.store.attachments.complete
    assert not change(before, await node.kernel.read()).routes
    assert await node.kernel.read() == before, "nothing is deleted, nothing is written"
    node.store.amend(known[1234, 42])
    assert node.store.attachments.unaccounted == {(1234, 43)}
    await until(lambda: (1234, 42) in node.sync._dataplane.pods)
    assert HOST_END in node.kernel.host.links
    node.store.release_unaccounted([(1234, 43)])
    await until(lambda: "G0000000jU00HH" not in node.kernel.host.links)
    assert HOST_END in node.kernel.host.links
    assert node.store.attachments.complete
    assert remote(node) == {"9"}


async def test_orphans_without_an_owner_go_with_their_vpc(node, config):
    await node.cni("ADD", config())
    await lose_records(node)
    await node.start()
    node.store.release_unaccounted(node.store.attachments.unaccounted)
    await until(lambda: set(node.kernel.host.links) == {"lo-galactic"})
    assert not node.store.attachments.hosted


async def test_what_was_detached_while_away_is_no_orphan(node, config):
    await node.cni("ADD", config())
    await lose_records(node)
    await node.cni("DEL", config())
    await node.start()
    assert node.store.attachments.unaccounted == {(1234, 42)}, "a DEL without a record changes nothing"
    node.store.detach((1234, 42))
    await until(lambda: HOST_END not in node.kernel.host.links)


async def test_a_sysctl_that_was_changed_is_put_back_though_nothing_tells(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.VERIFY_SECONDS", 0.05)
    monkeypatch.setattr("galactic.node.dataplane.sync.VERIFY_SHARE", 10**9)  # no look but at these
    await node.stop()
    await node.start()
    node.kernel.host.sysctls["net/vrf/strict_mode"] = "0"
    await until(lambda: node.kernel.host.sysctls["net/vrf/strict_mode"] == "1")


async def test_a_device_that_was_made_again_gets_its_routes_back(node, config, monkeypatch):
    """Another program deletes it and makes one of the same name: it looks the same, but the kernel dropped its
    routes.
    """
    monkeypatch.setattr("galactic.node.dataplane.sync.OWN_SECONDS", 0.0)
    await node.cni("ADD", config())
    before = node.kernel.host.routes.copy()
    await node.sync._dataplane.verify()
    link = node.kernel.host.links["G0000000jU000V"]
    node.kernel.lose_link("G0000000jU000V")
    node.kernel.host.links["G0000000jU000V"] = link._replace(ifindex=99)
    node.kernel.host.routes = {
        key: to for key, to in before.items() if to != EndDT46("G0000000jU000V", link.table)
    }
    node.sync.on_external_change(Changed.LINKS)
    await until(lambda: node.kernel.host.routes == before)


async def test_events_of_our_own_writes_are_not_checked_at_once(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.EVENT_SECONDS", 0.01)
    monkeypatch.setattr("galactic.node.dataplane.sync.OWN_SECONDS", 10.0**6)
    looks = []
    verify = node.sync._dataplane.verify
    monkeypatch.setattr(node.sync._dataplane, "verify", lambda: looks.append(1) or verify())
    await node.cni("ADD", config())
    node.sync.on_external_change(Changed.LINKS)
    await asyncio.sleep(0.2)
    assert not looks
    monkeypatch.setattr(node.sync, "_own_until", 0.0)
    node.sync.on_external_change(Changed.LINKS)
    await until(lambda: looks)


async def test_looking_does_not_read_routes(node, config):
    await node.cni("ADD", config())
    reads = node.kernel.reads
    assert await node.sync._dataplane.verify()
    assert node.kernel.reads == reads


async def test_a_pod_that_fails_is_tried_again_and_keeps_no_other_waiting(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.BACKOFF_SECONDS", (0.01, 0.3))
    await node.cni("ADD", config())
    attachment = node.store.attachments[1234, 42]
    inside = node.kernel.namespaces.pop("/ns/1")  # for a moment it cannot be entered
    node.store.amend(replace(attachment, networks=(*attachment.networks, ip_network("10.7.0.0/16"))))
    await until(lambda: node.sync.problem)
    node.kernel.add_namespace("/ns/2")
    reads = node.kernel.reads
    assert (await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")).code == 0
    assert node.kernel.reads == reads, "the kernel is not read again for it"
    node.kernel.namespaces["/ns/1"] = inside
    await until(lambda: not node.sync.problem)
    assert route_key(254, ip_network("10.7.0.0/16"), POD_METRIC) in inside["galactic0"].routes


async def test_a_sysctl_of_a_host_end_is_put_back(node, config, monkeypatch):
    """No event reports it, and it is no sysctl of the host's own part."""
    monkeypatch.setattr("galactic.node.dataplane.sync.VERIFY_SECONDS", 0.05)
    await node.cni("ADD", config())
    await node.stop()
    await node.start()

    async def unchanged():
        return True

    monkeypatch.setattr(node.sync._dataplane, "verify", unchanged)
    for path in (f"net/ipv4/conf/{HOST_END}/rp_filter", "net/ipv6/conf/G0000000jU000V/seg6_enabled"):
        assert node.kernel.host.sysctls[path] == "0"
        node.kernel.host.sysctls[path] = "1"
        await until(lambda path=path: node.kernel.host.sysctls[path] == "0")


async def test_the_order_of_policy_rules_is_put_back(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.OWN_SECONDS", 0.0)
    await node.cni("ADD", config())
    before = dict(node.kernel.host.lookups)
    assert before.keys() == {4, 6}
    node.kernel.host.lookups[4] = before[4]._replace(vrf_first=False)
    del node.kernel.host.lookups[6]
    node.sync.on_external_change(Changed.RULES)
    await until(lambda: node.kernel.host.lookups == before)


async def test_a_changed_mac_is_put_back_and_the_pod_learns_it(node, config, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.OWN_SECONDS", 0.0)
    await node.cni("ADD", config())
    link = node.kernel.host.links[HOST_END]
    assert link.mac
    node.kernel.solicited.clear()
    node.kernel.host.links[HOST_END] = link._replace(mac="02:00:00:00:00:99")
    node.sync.on_external_change(Changed.LINKS)
    await until(lambda: node.kernel.host.links[HOST_END].mac == link.mac)
    await until(lambda: (HOST_END, ip_address("10.1.1.1")) in node.kernel.solicited)


async def test_a_mac_of_an_earlier_version_stays(node, config):
    """The pod knows it: a new one would cut the pod off."""
    await node.cni("ADD", config())
    await node.stop()
    earlier = node.kernel.host.links[HOST_END]._replace(mac="aa:00:00:00:00:01")
    node.kernel.host.links[HOST_END] = earlier
    await node.start()
    await node.cni("ADD", config(networks=["10.1.1.0/24", "10.2.0.0/16"]))
    node.sync.on_external_change()
    await until(lambda: node.sync._dataplane.known)
    assert node.kernel.host.links[HOST_END].mac == earlier.mac


async def test_routes_that_go_with_an_address_are_back_in_the_same_round(node, config, monkeypatch):
    """As the kernel does it: with the last address of IPv4 all of its routes go."""
    write = node.kernel.write_pod

    async def flushing(netns, wanted):
        await write(netns, wanted)
        if wanted.addresses.delete:
            for objects in node.kernel.namespaces[netns].values():
                objects.routes = {key: to for key, to in objects.routes.items() if len(key) != IPV4_KEY}

    monkeypatch.setattr(node.kernel, "write_pod", flushing)
    await node.cni("ADD", config())
    inside = node.kernel.namespaces["/ns/1"]["galactic0"]
    before = dict(inside.routes)
    assert any(len(key) == IPV4_KEY for key in before)
    inside.addresses["galactic0", ip_interface("10.1.1.9/24")] = True
    await node.sync._dataplane.resync(node.sync._host())
    assert ("galactic0", ip_interface("10.1.1.9/24")) not in inside.addresses
    assert inside.routes == before
