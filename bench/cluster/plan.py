"""The attachments that are copied: names, and numbers and addresses as the operator assigns them."""

import secrets
import string
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Network, ip_network

from copies import Member
from load import NAMESPACE, placed

from galactic.operator.addresses import Addresses
from galactic.operator.identifiers import functions
from galactic.validation.networks import Network, host


class VpcNumbers:
    """Functions and addresses of one VPC, those of its members taken."""

    def __init__(self, identifier: int, networks: Sequence[Network]) -> None:
        self.identifier, self._networks = identifier, networks
        self._functions, self._addresses = functions(), Addresses(NAMESPACE)

    def take(self, member: Member) -> None:
        """The member has its numbers already."""
        holder = NAMESPACE, member.name
        self._functions.claim(holder, member.function)
        self._addresses.claim(holder, [*map(ip_network, member.addresses)])

    def assign(self, name: str, uid: str) -> tuple[int, tuple[str, ...]]:
        """The function, which follows from the UID, and the addresses."""
        holder = NAMESPACE, name
        interfaces = self._addresses.allocate(self._networks)
        self._addresses.claim(holder, [host(interface.ip) for interface in interfaces])
        return self._functions.allocate(holder, uid), tuple(str(interface.ip) for interface in interfaces)


def template_numbers(nodes: int) -> tuple[int, ...]:
    """The pods that the system makes first: on two nodes one of each VPC. The first is copied, the rest compared."""
    return 0, 1, nodes, nodes + 1


def planned(
    numbers: Iterable[int],
    vpcs: Mapping[str, VpcNumbers],
    prefixes: Mapping[str, IPv6Network],
    epoch: int,
) -> Iterator[Member]:
    """The members with these numbers of ``placed``. ``prefixes``: of each node; ``epoch``: before all of them."""
    for number in numbers:
        node, vpc = placed(number, len(prefixes))
        pod, uid = f"p{number}", str(uuid.uuid4())
        name = f"{pod}-{''.join(secrets.choice(string.ascii_lowercase) for _ in range(5))}"
        function, addresses = vpcs[vpc].assign(name, uid)
        epoch += 1
        yield Member(
            pod=pod,
            pod_uid=str(uuid.uuid4()),
            name=name,
            uid=uid,
            definition_uid=str(uuid.uuid4()),
            vpc=vpc,
            identifier=vpcs[vpc].identifier,
            function=function,
            addresses=addresses,
            node=f"n{node}",
            prefix=prefixes[f"n{node}"],
            epoch=epoch,
        )
