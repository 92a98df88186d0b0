"""A text that the webhook accepts is accepted by each later part: kernel, CNI, Multus, operator, node and router."""

import json
import re
from ipaddress import ip_network
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from galactic.crds.model import parse
from galactic.crds.vpcattachment import INTERFACE_FORM, VpcAttachment
from galactic.errors import Rejected
from galactic.node.cni import protocol
from galactic.router.rib.networks import entitled, network
from galactic.validation import multus
from galactic.validation.attachment import interface_name, parse_attachment
from galactic.validation.networks import parse_networks
from galactic.webhook.pod import label
from galactic_lab.node.selections import selections

ODD = "ag0_.-@,%:/ +=[]{}\"'\\é\n\x00"
names = st.from_regex(r"[A-Za-z0-9_.-]{1,15}", fullmatch=True) | st.text(
    alphabet=ODD, min_size=1, max_size=16
)
objects = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda text: ".." not in text
)
annotations = st.lists(st.tuples(objects, names | st.just("")), max_size=3)
addresses = st.ip_addresses().map(str) | st.sampled_from(
    [
        "10.1.1.1",
        "10.1.1.0",
        "2001:db8::1",
        "::ffff:10.1.1.1",
        "64:ff9b::1",
        "fec0::1",
        "fe80::1%eth0",
        "1.2.3",
    ]
)
lengths = (
    st.sampled_from(["24", "32", "64", "128"])
    | st.integers(0, 129).map(str)
    | st.sampled_from(["", "024", "255.255.255.0", "0.0.0.255", "-1", "²"])
)
cidrs = st.tuples(addresses, lengths).map("/".join) | addresses


checked = settings(suppress_health_check=[HealthCheck.filter_too_much])
"""Many texts are refused, which is not what these tests are about."""


def accepted(check: Any, *arguments: Any) -> Any:
    """The result; the example does not count where the text is refused."""
    try:
        return check(*arguments)
    except Rejected:
        assume(False)


@checked
@given(names)
def test_interface_names(name: str) -> None:
    accepted(interface_name, name)
    # dev_valid_name in net/core/dev.c, and __dev_alloc_name for %
    assert len(name.encode()) < 16
    assert name not in {".", ".."}
    assert not re.search(r"[/:%\s]", name)
    assert re.search(INTERFACE_FORM.expression.split("'")[1], name), "the rule in the kind refuses it"
    variables = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/ns/1", "CNI_IFNAME": name}
    config = b'{"cniVersion": "1.0.0", "name": "web"}'
    assert protocol.request("add", variables, config).ifname == name


@checked
@given(annotations, objects, names)
def test_the_entry_for_multus(before: list[tuple[str, str]], name: str, interface: str) -> None:
    accepted(interface_name, interface)
    others = [{"name": other, "interface": own} if own else {"name": other} for other, own in before]
    text = json.dumps(others) if others else ""
    assume(all(other != name for other, _ in before))
    after = accepted(multus.appended, text, name, interface, "blue")
    used = multus.interfaces(multus.networks(after))
    assume(len(set(used)) == len(used))
    (*_, entry) = selections(after, "blue")
    assert (entry.namespace, entry.name, entry.interface) == ("blue", name, interface)
    assert label(name)


@checked
@given(cidrs)
def test_networks_of_a_vpc(text: str) -> None:
    (parsed,) = accepted(parse_networks, [text], None)
    assert network(str(parsed)) == str(parsed), "the router refuses it"
    assert ip_network(str(parsed)) == parsed


@checked
@given(cidrs, cidrs)
def test_terminations(destination: str, address: str) -> None:
    via = address.partition("/")[0]
    document = {
        "metadata": {"name": "web", "namespace": "blue"},
        "spec": {
            "vpc": {"name": "v"},
            "interface": {"addresses": [address]},
            "routes": [{"destination": destination, "via": via}],
        },
    }
    attachment = accepted(parse, VpcAttachment, document)
    parsed = accepted(parse_attachment, attachment, None)
    assume(destination.partition("/")[2] != "0")
    (termination,) = parsed.terminations(parsed.addresses)
    given_ = [(route.destination, route.via) for route in attachment.spec.routes]
    assert str(termination.network) in entitled(attachment.spec.interface.addresses, given_), (
        "no route leads there"
    )
