"""An ADD of a pod that rules select: they are in force before its device is there, or it is refused."""

from galactic.errors import NotYet


async def test_rules_come_before_the_device(node, config):
    answer = await node.cni("ADD", config(policies=["policy-a"]))
    assert answer.code == 0
    ((_, _, device),) = node.rules.seen
    assert not device
    assert node.rules.wanted == {}


async def test_a_pod_whose_rules_are_not_in_force_is_not_attached(node, config):
    node.rules.problem = NotYet("the rules are not in force yet")
    answer = await node.cni("ADD", config())
    assert answer.body["code"] == 11
    assert "not in force" in answer.body["msg"]
    assert not node.store.attachments
    assert not [name for name in node.kernel.host.links if name.endswith("H")]
