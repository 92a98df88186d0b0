"""The cluster's DNS, for a lab with the chart: CoreDNS beside the API server, behind the Service that kubelet names.

It answers for Services and pods. A lab reaches no other network: all other names are answered with NXDOMAIN.
"""

import json
from typing import Final

from galactic_lab.builds import build_modules
from galactic_lab.processes import Program
from galactic_lab.state import DNS, DOMAIN, State

USER: Final = "coredns"
PORT: Final = 53
NAME: Final = "kube-dns"
PORTS: Final = (("dns", "UDP"), ("dns-tcp", "TCP"))


def corefile(state: State) -> str:
    """CoreDNS' configuration. A server block answers for its zones, except where another block has a longer zone."""
    zones = f"{DOMAIN} in-addr.arpa ip6.arpa"
    return f"""\
{zones} {{
    bind {state.control}
    errors
    kubernetes {zones} {{
        kubeconfig {state.identity(USER)}
    }}
}}
. {{
    bind {state.control}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def program(state: State) -> Program:
    """CoreDNS, in the control plane's namespace."""
    path = state.data / "Corefile"
    path.write_text(corefile(state))
    binary = build_modules.coredns().home / "coredns"
    return Program("coredns", [str(binary), f"-conf={path}"], priority=400)


def manifest(state: State) -> str:
    """The Service, which selects no pods, and its one endpoint. JSON."""
    metadata = {"name": NAME, "namespace": "kube-system"}
    ports = [{"name": name, "port": PORT, "protocol": protocol} for name, protocol in PORTS]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata | {"labels": {"k8s-app": NAME}},
        "spec": {"clusterIP": DNS, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv6",
        "endpoints": [{"addresses": [str(state.control)], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints]})
