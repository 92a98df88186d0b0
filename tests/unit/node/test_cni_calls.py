"""The kubelet's calls, from the plugin as a process of its own to a kernel in memory."""

import asyncio
import json
import stat
from ipaddress import IPv6Network

import pytest

from galactic.node.attachment import plugin_config
from galactic.node.cni import VERSIONS

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
    "wrong",
    [
        pytest.param({"container": "../../etc"}, id="container"),
        pytest.param({"container": "a b"}, id="space"),
        pytest.param({"ifname": "a" * 16}, id="long-name"),
        pytest.param({"ifname": "a/b"}, id="slash"),
        pytest.param({"netns": "relative"}, id="relative-netns"),
    ],
)
async def test_bad_variables_are_refused(node, config, wrong):
    answer = await node.cni("ADD", config(), **wrong)
    assert (answer.code, answer.body["code"]) == (1, 4)


@pytest.mark.parametrize("value", ["x\r\nCNI_CONTAINERID: evil", "x\r\n\r\nGET / HTTP/1.1", "ä%0d%0a\x01"])
async def test_no_variable_can_become_another_header(node, config, value):
    answer = await node.cni("ADD", config(), CNI_ARGS=f"K8S_POD_NAME={value}")
    assert answer.code == 0
    (attached,) = node.store.attachments.values()
    assert attached.container == "c1"


async def test_no_json_at_all(node, config):
    answer = await node.cni("ADD", b"\xff{")
    assert (answer.code, answer.body["code"]) == (1, 7)


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


async def test_a_failing_add_leaves_nothing_and_disturbs_nobody(node, config):
    node.kernel.fail = HOST_END
    node.kernel.add_namespace("/ns/2")
    bad, good = await asyncio.gather(
        node.cni("ADD", config()),
        node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2"),
    )
    assert (bad.code, bad.body["code"], good.code) == (1, 11, 0)
    assert list(node.store.attachments) == [(1234, 43)]


async def test_not_ready_says_what_is_missing(node, config):
    node.problem = "there is no NodeSegment node-1"
    assert (await node.cni("ADD", config())).body == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "there is no NodeSegment node-1",
        "details": "",
    }
    status = await node.cni("STATUS", {"cniVersion": "1.1.0"})
    assert (status.code, status.body["code"]) == (1, 50)
    node.problem = None
    assert (await node.cni("STATUS", {"cniVersion": "1.1.0"})).code == 0


async def test_check_looks_into_the_kernel(node, config):
    assert (await node.cni("CHECK", config())).body["code"] == 100
    await node.cni("ADD", config())
    assert (await node.cni("CHECK", config())).code == 0
    node.kernel.namespaces["/ns/1"]["galactic0"].routes.clear()
    answer = await node.cni("CHECK", config())
    assert answer.body["code"] == 100
    assert "10.1.1.0/24" in answer.body["details"]


async def test_gc_detaches_what_is_not_listed_and_only_of_its_network(node, config):
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config())
    await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")
    valid = [{"containerID": "c1", "ifname": "galactic0"}]
    keep = config(cniVersion="1.1.0") | {"cni.dev/valid-attachments": valid}
    assert plugin_config(json.dumps(keep).encode()).valid[0].container == "c1"
    assert (await node.cni("GC", keep)).code == 0
    assert len(node.store.attachments) == 2
    assert (await node.cni("GC", keep | {"cni.dev/valid-attachments": []})).code == 0
    assert list(node.store.attachments) == [(1234, 43)]


async def test_only_root_can_use_the_socket(node, config):
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.directory.stat().st_mode) == 0o700


async def test_a_restart_needs_neither_broker_nor_api_and_touches_nothing(node, config):
    await node.cni("ADD", config())
    before, told = await node.kernel.read(), node.store.announcement()
    await node.stop()
    node.kernel.writes.clear()
    node.prefix = None
    await node.start()
    await node.sync.ready.wait()
    assert await node.kernel.read() == before
    assert not any(change.links or change.routes for change in node.kernel.writes)
    again = node.store.announcement()
    assert told
    assert again
    assert told.endpoints == again.endpoints
    assert again.sequence > told.sequence


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
    await node.cni("ADD", config())
    node.store.set_prefix(IPv6Network("2001:db8:ff02:100::/56"))
    told = node.store.announcement()
    assert told
    assert told.endpoints[0].sid == "2001:db8:ff02:100::4d2:2a"
    async with asyncio.timeout(5):
        while (await node.cni("CHECK", config())).code:
            await asyncio.sleep(0.05)
    assert not any(b"\xff\x01\x01\x00" in key for key in node.kernel.host.routes), (
        "nothing of the old prefix is left"
    )
