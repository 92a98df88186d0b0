"""The kubelet's calls, from the plugin as a process of its own to a kernel in memory."""

import asyncio
import json
import os
import stat
from ipaddress import IPv6Network

import pytest

from galactic.node.cni.protocol import VERSIONS
from galactic.node.cni.results import result
from galactic.node.dataplane.sandbox import Device
from galactic.node.state.attachment import attachment_of, plugin_config

HOST_END = "G0000000jU00GH"
VRF = "G0000000jU000V"


async def test_add_is_in_the_kernel_when_it_returns(node, config):
    answer = await node.cni("ADD", config())
    assert answer.code == 0
    assert {VRF, HOST_END} <= node.kernel.host.links.keys()
    inside = node.kernel.namespaces["/ns/1"]["galactic0"]
    assert sorted(str(address) for _, address in inside.addresses) == ["10.1.1.1/24", "2001:10:1:1::1/64"]
    assert answer.body["interfaces"][1] == {"name": "galactic0", "sandbox": "/ns/1"}
    assert [ip["address"] for ip in answer.body["ips"]] == ["10.1.1.1/24", "2001:10:1:1::1/64"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_results_are_of_the_version_asked_for(node, config, version):
    body = (await node.cni("ADD", config(cniVersion=version))).body
    assert body["cniVersion"] == version
    assert ("version" in body["ips"][0]) == version.startswith("0.")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        pytest.param({"cniVersion": "0.1.0"}, 1, "cniVersion", id="version"),
        pytest.param({"cniVersion": "1.2.0"}, 1, "cniVersion", id="version-to-come"),
        pytest.param({"cniVersion": 1}, 6, "cniVersion", id="no-version"),
        pytest.param({"name": ""}, 7, "name", id="no-name"),
        pytest.param({"name": "a b"}, 7, "name", id="name"),
        pytest.param({"ipMasq": True}, 2, "unsupported field 'ipMasq' with value true", id="unsupported"),
        pytest.param({"ipam": {"type": "x"}}, 2, """'ipam' with value {"type":"x"}""", id="foreign-ipam"),
        pytest.param({"attachment": "no-slash"}, 7, "attachment", id="attachment"),
        pytest.param({"attachment": "a/../../b"}, 7, "attachment", id="attachment-path"),
        pytest.param({"addresses": ["fe80::1%eth0/64"]}, 7, "zone", id="zone"),
        pytest.param(
            {
                "terminations": [
                    {"network": f"10.2.{n // 8}.{n % 8 * 32}/27", "via": "10.1.1.1"} for n in range(600)
                ]
            },
            7,
            "terminations",
            id="too-many",
        ),
        pytest.param({"vpc": "!"}, 7, "base62", id="not-base62"),
        pytest.param({"vpc": "0"}, 7, "vpc", id="reserved-vpc"),
        pytest.param({"vpcattachment": "h31"}, 7, "vpcattachment", id="reserved-attachment"),
        pytest.param({"vpc": 5}, 7, "vpc", id="type"),
        pytest.param({"addresses": []}, 7, "addresses", id="no-address"),
        pytest.param({"addresses": ["10.1.1.300/24"]}, 7, "addresses", id="address"),
        pytest.param({"networks": ["10.1.1.1/24"]}, 7, "networks", id="host-bits"),
        pytest.param({"mtu": 576}, 7, "mtu", id="mtu"),
        pytest.param(
            {"terminations": [{"network": "1.0.0.0/8", "via": "9.9.9.9"}]}, 7, "via", id="foreign-via"
        ),
        pytest.param(
            {"terminations": [{"network": "fd00::/8", "via": "10.1.1.1"}]}, 7, "family", id="family"
        ),
    ],
)
async def test_bad_configurations_are_refused_with_the_field(node, config, change, code, text):
    answer = await node.cni("ADD", config(**change))
    assert (answer.code, answer.body["code"]) == (1, code)
    assert text in answer.body["msg"]
    assert not node.store.attachments


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        pytest.param({"container": "../../etc"}, ["CNI_CONTAINERID"], id="container"),
        pytest.param({"container": "a b"}, ["CNI_CONTAINERID"], id="space"),
        pytest.param({"ifname": "a" * 16}, ["CNI_IFNAME"], id="long-name"),
        pytest.param({"ifname": "a/b"}, ["CNI_IFNAME"], id="slash"),
        pytest.param({"ifname": "a:b"}, ["CNI_IFNAME"], id="colon"),
        pytest.param({"ifname": ".."}, ["CNI_IFNAME"], id="dots"),
        pytest.param({"ifname": "eth%d"}, ["CNI_IFNAME"], id="kernel-template"),
        pytest.param({"ifname": "a\x01"}, ["CNI_IFNAME"], id="control"),
        pytest.param({"netns": "relative"}, ["CNI_NETNS"], id="relative-netns"),
        pytest.param({"netns": "/ns/../etc"}, ["CNI_NETNS"], id="dots-in-netns"),
        pytest.param({"netns": "/ns/1\n"}, ["CNI_NETNS"], id="newline-in-netns"),
        pytest.param({"netns": "/" + "x" * 5000}, ["CNI_NETNS"], id="long-netns"),
        pytest.param({"netns": "/ns/none"}, ["CNI_NETNS"], id="no-namespace"),
        pytest.param({"container": "/", "ifname": "/"}, ["CNI_CONTAINERID", "CNI_IFNAME"], id="two"),
    ],
)
async def test_bad_variables_are_refused_with_their_names(node, config, wrong, names):
    answer = await node.cni("ADD", config(), **wrong)
    assert (answer.code, answer.body["code"]) == (1, 4)
    assert [
        name for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME") if name in answer.body["msg"]
    ] == names
    assert not node.store.attachments


@pytest.mark.parametrize(
    "wrong",
    [
        {"ifname": "eth%d"},
        {"ifname": "a/b"},
        {"ifname": "x" * 40},
        {"container": "../../etc"},
        {"netns": "relative"},
    ],
    ids=lambda wrong: next(iter(wrong.values()))[:9],
)
async def test_delete_succeeds_whatever_the_variables_are(node, config, wrong):
    assert (await node.cni("ADD", config())).code == 0
    assert (await node.cni("DEL", config(), **wrong)).code == 0
    assert bool(node.store.attachments) == ("netns" not in wrong), "only the pod itself is detached"


@pytest.mark.parametrize("value", ["x\r\nCNI_CONTAINERID: evil", "x\r\n\r\nGET / HTTP/1.1", "ä%0d%0a\x01"])
async def test_no_variable_can_become_another_header(node, config, value):
    answer = await node.cni("ADD", config(), CNI_ARGS=f"K8S_POD_NAME={value}")
    assert answer.code == 0
    (attached,) = node.store.attachments.values()
    assert attached.container == "c1"


async def test_no_json_at_all(node, config):
    answer = await node.cni("ADD", b"\xff{")
    assert (answer.code, answer.body["code"]) == (1, 6)


async def test_add_again_changes_nothing(node, config):
    first, epoch = await node.cni("ADD", config()), node.store.attachments[1234, 42].epoch
    writes = len(node.kernel.writes)
    again = await node.cni("ADD", config())
    assert again == first
    assert node.store.attachments[1234, 42].epoch == epoch
    assert len(node.kernel.writes) == writes


async def test_del_leaves_nothing_and_succeeds_again(node, config):
    await node.cni("ADD", config())
    assert (await node.cni("DEL", config())).code == 0
    assert not {VRF, HOST_END} & node.kernel.host.links.keys()
    assert not list((node.directory / "attachments").iterdir())
    assert (await node.cni("DEL", config())).code == 0
    assert (await node.cni("DEL", b"no json")).code == 0


async def test_a_live_holder_keeps_its_attachment_a_dead_one_does_not(node, config):
    await node.cni("ADD", config())
    node.kernel.add_namespace("/ns/2")
    refused = await node.cni("ADD", config(), container="c2", netns="/ns/2")
    assert refused.body["code"] == 11
    assert "c1" in refused.body["msg"]
    node.kernel.remove_namespace("/ns/1")
    assert (await node.cni("ADD", config(), container="c2", netns="/ns/2")).code == 0
    assert node.kernel.peers[HOST_END] == ("/ns/2", "galactic0")
    assert node.kernel.namespaces["/ns/2"]["galactic0"].addresses


async def test_a_late_del_of_the_old_pod_does_not_touch_the_new_one(node, config):
    await node.cni("ADD", config())
    node.kernel.add_namespace("/ns/2")
    node.kernel.remove_namespace("/ns/1")
    await node.cni("ADD", config(), container="c2", netns="/ns/2")
    assert (await node.cni("DEL", config())).code == 0
    assert HOST_END in node.kernel.host.links


async def test_a_failing_add_leaves_nothing_and_disturbs_no_other(node, config):
    node.kernel.fail = HOST_END
    node.kernel.add_namespace("/ns/2")
    bad, good = await asyncio.gather(
        node.cni("ADD", config()),
        node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2"),
    )
    assert (bad.code, bad.body["code"], good.code) == (1, 11, 0)
    assert list(node.store.attachments) == [(1234, 43)]


async def test_not_ready_names_the_missing_part(node, config):
    node.problem = "there is no NodeSegment node-1"
    assert (await node.cni("ADD", config())).body == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "there is no NodeSegment node-1",
        "details": "",
    }
    status = await node.cni("STATUS", {"cniVersion": "1.1.0", "name": "blue"})
    assert (status.code, status.body["code"]) == (1, 50)
    node.problem = None
    assert (await node.cni("STATUS", {"cniVersion": "1.1.0", "name": "blue"})).code == 0


async def test_check_looks_into_the_kernel(node, config):
    added = config() | {"prevResult": {"interfaces": []}}
    assert (await node.cni("CHECK", added)).body["code"] == 100
    added["prevResult"] = (await node.cni("ADD", config())).body
    assert (await node.cni("CHECK", added)).code == 0
    node.kernel.namespaces["/ns/1"]["galactic0"].routes.clear()
    answer = await node.cni("CHECK", added)
    assert answer.body["code"] == 100
    assert "10.1.1.0/24" in answer.body["details"]


async def test_gc_detaches_what_is_not_listed_and_only_of_its_network(node, config):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config())
    await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")
    valid = [{"containerID": "c1", "ifname": "galactic0"}]
    keep = config(cniVersion="1.1.0") | {"cni.dev/valid-attachments": valid}
    assert plugin_config(json.dumps(keep).encode()).valid == {("c1", "galactic0")}
    assert (await node.cni("GC", keep)).code == 0
    assert len(node.store.attachments) == 2
    assert (await node.cni("GC", keep | {"cni.dev/valid-attachments": []})).code == 0
    assert list(node.store.attachments) == [(1234, 43)]


async def test_only_root_can_use_the_socket(node, config):
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.directory.stat().st_mode) == 0o700


async def test_a_restart_needs_neither_broker_nor_api_and_touches_nothing(node, config):
    await node.cni("ADD", config())
    before, registration = await node.kernel.read(), node.store.registration()
    await node.stop()
    node.kernel.writes.clear()
    node.prefix = None
    await node.start()
    await node.sync.ready.wait()
    assert await node.kernel.read() == before
    assert not any(change.links or change.routes for change in node.kernel.writes)
    again = node.store.registration()
    assert registration
    assert again
    assert registration.endpoints == again.endpoints
    assert again.sequence > registration.sequence


async def test_a_del_while_away_is_carried_out_at_start(node, config):
    await node.cni("ADD", config())
    await node.stop()
    assert (await node.cni("DEL", config())).code == 0
    assert (await node.cni("ADD", config())).body["code"] == 11
    assert HOST_END in node.kernel.host.links
    await node.start()
    while HOST_END in node.kernel.host.links:
        await asyncio.sleep(0.01)
    assert not node.store.attachments
    assert not list((node.directory / "pending").iterdir())


async def test_a_new_prefix_moves_every_sid(node, config):
    added = config() | {"prevResult": (await node.cni("ADD", config())).body}
    node.store.set_prefix(IPv6Network("2001:db8:ff02:100::/56"))
    registration = node.store.registration()
    assert registration
    assert registration.endpoints[0].sid == "2001:db8:ff02:100::4d2:2a"
    async with asyncio.timeout(120):
        while (await node.cni("CHECK", added)).code:
            await asyncio.sleep(0.05)
    assert not any(b"\xff\x01\x01\x00" in key for key in node.kernel.host.routes), (
        "nothing of the old prefix is left"
    )


@pytest.mark.parametrize("body", [b"\xff{", b"", b"[]", b"[" * 100_000, b"5"])
async def test_what_is_no_json_object_cannot_be_decoded(node, body):
    for command in ("ADD", "CHECK", "GC", "STATUS"):
        assert (await node.cni(command, body)).body["code"] == 6


async def test_a_configuration_without_version_is_of_the_oldest(node, config):
    given = config()
    del given["cniVersion"]
    answer = await node.cni("ADD", given)
    assert (answer.body["code"], "0.1.0" in answer.body["msg"]) == (1, True)


@pytest.mark.parametrize(
    ("command", "version", "code"),
    [
        ("CHECK", "0.3.1", 1),
        ("GC", "1.0.0", 1),
        ("STATUS", "0.4.0", 1),
        ("CHECK", "0.4.0", 7),  # there is no prevResult
        ("GC", "1.1.0", 7),  # there is no list
        ("STATUS", "1.1.0", 0),
    ],
)
async def test_verbs_came_with_versions(node, config, command, version, code):
    answer = await node.cni(command, config(cniVersion=version))
    assert (answer.body["code"] if answer.code else 0) == code


async def test_fields_for_others_and_without_value_are_none_of_our_business(node, config):
    given = config() | {"capabilities": {"ips": True}, "ipam": {}, "ipMasq": False, "example.com/hint": 5}
    assert (await node.cni("ADD", given)).code == 0


async def test_dns_is_handed_on(node, config):
    dns = {"nameservers": ["10.1.1.53"], "search": ["blue.example"]}
    assert (await node.cni("ADD", config(dns=dns))).body["dns"] == dns


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_other_plugins_theirs_is_in_the_result_too(node, config, version):
    previous = {
        "cniVersion": version,
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/ns/1", "mac": "aa:bb:cc:dd:ee:ff"}],
        "ips": [{"address": "192.0.2.2/24", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["192.0.2.1"]},
    }
    given = config(cniVersion=version) | {"prevResult": previous}
    body = (await node.cni("ADD", given)).body
    assert body["interfaces"][:2] == previous["interfaces"]
    assert body["interfaces"][3] == {"name": "galactic0", "sandbox": "/ns/1"}
    assert [ip["interface"] for ip in body["ips"]] == [1, 3, 3]
    assert body["routes"][0] == {"dst": "0.0.0.0/0"}
    assert body["dns"] == previous["dns"]
    if version != "0.3.1":
        assert (await node.cni("CHECK", given | {"prevResult": body})).code == 0


def _without(result, kind, number):
    return result | {kind: [entry for index, entry in enumerate(result[kind]) if index != number]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(lambda r: _without(r, "interfaces", 0), HOST_END, id="no-host-end"),
        pytest.param(lambda r: _without(r, "interfaces", 1), "galactic0", id="no-container-end"),
        pytest.param(lambda r: _without(r, "ips", 0), "10.1.1.1/24 is not in", id="no-address"),
        pytest.param(
            lambda r: r | {"ips": [*r["ips"], {"address": "10.9.9.9/24", "interface": 1}]},
            "10.9.9.9/24 of prevResult",
            id="address-too-much",
        ),
        pytest.param(
            lambda r: r | {"routes": [{"dst": "10.9.0.0/16", "gw": "169.254.1.1"}]},
            "10.9.0.0/16 of prevResult",
            id="route-too-much",
        ),
    ],
)
async def test_check_compares_with_the_result_of_the_add(node, config, change, text):
    added = (await node.cni("ADD", config())).body
    answer = await node.cni("CHECK", config() | {"prevResult": change(added)})
    assert answer.body["code"] == 100
    assert text in answer.body["details"]


async def test_check_lets_later_plugins_change_what_is_theirs(node, config):
    added = (await node.cni("ADD", config())).body
    added["interfaces"].append({"name": "tap0"})
    added["ips"].append({"address": "192.0.2.2/24", "interface": 2})
    added["routes"] = [{"dst": "192.0.2.0/24"}]
    assert (await node.cni("CHECK", config() | {"prevResult": added})).code == 0


@pytest.mark.parametrize("previous", [{"ips": 5}, {"interfaces": [{"name": 1}]}, {"routes": [{}]}])
async def test_check_names_the_error_in_a_result(node, config, previous):
    await node.cni("ADD", config())
    assert (await node.cni("CHECK", config() | {"prevResult": previous})).body["code"] == 7


async def test_gc_takes_no_list_for_none_but_null_for_an_empty_one(node, config):
    await node.cni("ADD", config())
    assert (await node.cni("GC", config(cniVersion="1.1.0"))).body["code"] == 7
    kept = [{"containerID": "c1", "ifname": "galactic0"}]
    misnamed = config(cniVersion="1.1.0") | {"cni.dev/attachments": kept}
    assert (await node.cni("GC", misnamed)).code == 0
    assert node.store.attachments
    assert (await node.cni("GC", misnamed | {"cni.dev/attachments": None})).code == 0
    assert not node.store.attachments


async def test_status_reports_whether_attached_pods_suffer_as_well(node, config):
    await node.cni("ADD", config())
    node.problem = "the underlay is gone"
    status = await node.cni("STATUS", config(cniVersion="1.1.0"))
    assert (status.code, status.body["code"]) == (1, 51)


async def test_another_interface_of_the_same_container_is_another_holder(node, config):
    await node.cni("ADD", config())
    refused = await node.cni("ADD", config(), ifname="galactic1")
    assert refused.body["code"] == 11
    assert (await node.cni("DEL", config(), ifname="galactic1")).code == 0
    assert HOST_END in node.kernel.host.links


async def test_requests_while_no_controller_listens_are_done_later(node, config):
    """DELs and whatever else lies there: half a file, another verb, no request at all."""
    await node.cni("ADD", config())
    await node.stop()
    assert (await node.cni("DEL", config(), netns="")).code == 0
    pending = node.directory / "pending"
    (pending / "1").write_bytes(b"no request")
    (pending / "2").write_bytes(b"POST /cni/v1/add HTTP/1.1\r\n\r\n")
    (pending / "3").write_bytes(b"POST /cni/v1/del HTTP/1.1\r\nCNI_CONTAINERID: ../..\r\n\r\n{}")
    (pending / "4.partial").write_bytes(b"POST")
    os.utime(pending / "4.partial", (0, 0))
    (pending / "5.partial").write_bytes(b"POST")
    os.utime(pending / "5.partial", (2**32, 2**32))  # however long this takes, it is not old
    await node.start()
    async with asyncio.timeout(120):
        while HOST_END in node.kernel.host.links:
            await asyncio.sleep(0.01)
    assert not node.store.attachments
    assert [path.name for path in pending.iterdir()] == ["5.partial"], "a plugin may still be writing it"


@pytest.mark.parametrize(
    ("speaks", "reported"), [("0.4.0", {"mac"}), ("1.0.0", {"mac"}), ("1.1.0", {"mac", "mtu"})]
)
def test_devices_are_reported_as_the_version_has_them(config, speaks, reported):
    given = attachment_of(plugin_config(json.dumps(config()).encode()), "c1", "/ns/1", "galactic0")
    host, inside = Device("02:00:00:00:00:01", 1460), Device("02:00:00:00:00:02", 1460)
    ends = result(given, speaks, (host, inside), {})["interfaces"]
    assert [end["mac"] for end in ends] == [host.mac, inside.mac]
    assert all(end.keys() - {"name", "sandbox"} == reported for end in ends)
