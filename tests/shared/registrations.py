"""Nodes by number and what they register: for tests of the router, with a broker in memory and with a real one."""

from ipaddress import IPv6Network

from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.names import function_hex, vpc_hex
from galactic.srv6 import sid


class Topology:
    """Nodes n1, n2, … with prefixes of their own, and endpoints on them."""

    topics = Topics("galactic/v1")

    @staticmethod
    def prefix(node: str) -> IPv6Network:
        return IPv6Network(f"2001:db8:ff01:{int(node[1:]):x}00::/56")

    def endpoint(
        self, node: str, function: int, *networks: str, epoch: int = 1, vpc: int = 0x4D2
    ) -> Endpoint:
        address = str(sid(self.prefix(node), vpc, function))
        return Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{function}", address, networks, epoch)

    def status(self, node: str, cluster: str = "default") -> tuple[str, bytes]:
        return self.topics.status(cluster, node), encode(NodeStatus("online", str(self.prefix(node)), "1"))

    def endpoints(
        self, node: str, sequence: int, *endpoints: Endpoint, cluster: str = "default"
    ) -> tuple[str, bytes]:
        return self.topics.endpoints(cluster, node), encode(NodeEndpoints(sequence, endpoints))
