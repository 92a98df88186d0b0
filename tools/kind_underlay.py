"""The underlay of a kind cluster: ``python3 tools/kind_underlay.py [CONTEXT]``, with Docker and kubectl.

On each of the cluster's nodes, a route to every other node's SRv6 prefix by that node's IPv6 address. Nodes that have
no prefix yet are waited for. Needs nothing but the standard library; running it again changes nothing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

PATIENCE_SECONDS: Final = 120.0


class Incomplete(Exception):
    """The cluster lacks something that the routes need."""


def addresses(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Node → its IPv6 address, out of the API server's list of Nodes. Raises Incomplete."""
    found = {}
    for node in nodes["items"]:
        name = node["metadata"]["name"]
        listed = node.get("status", {}).get("addresses", ())
        ipv6 = [
            address["address"]
            for address in listed
            if address["type"] == "InternalIP" and ":" in address["address"]
        ]
        if not ipv6:
            raise Incomplete(f"Node {name} has no IPv6 address: was the cluster made with kind-config.yaml?")
        found[name] = ipv6[0]
    return found


def routes(nodes: Mapping[str, Any], segments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Node → prefix → the address that it is reached by. Raises Incomplete."""
    known = addresses(nodes)
    prefixes = {segment["metadata"]["name"]: segment["spec"]["prefix"] for segment in segments["items"]}
    if missing := sorted(known.keys() - prefixes):
        raise Incomplete(f"no NodeSegment for {', '.join(missing)}: see `segments` in kind-values.yaml")
    return {
        node: {prefixes[other]: address for other, address in known.items() if other != node}
        for node in known
    }


def command(node: str, prefix: str, via: str) -> list[str]:
    """One route."""
    return ["docker", "exec", node, "ip", "-6", "route", "replace", prefix, "via", via]


def main() -> int:
    context = ["--context", sys.argv[1]] if len(sys.argv) > 1 else []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            wanted = routes(_listed(context, "nodes"), _listed(context, "nodesegments"))
            break
        except Incomplete as error:
            if time.monotonic() > deadline:
                sys.stderr.write(f"underlay: {error}\n")
                return 1
        time.sleep(2)
    for node, table in wanted.items():
        for prefix, via in table.items():
            subprocess.run(command(node, prefix, via), check=True)
            sys.stdout.write(f"{node}: {prefix} via {via}\n")
    return 0


def _listed(context: list[str], kind: str) -> dict[str, Any]:
    """All objects of that kind. Raises Incomplete while the API server lacks the kind or cannot be reached."""
    words = ["kubectl", *context, "--request-timeout=10s", "get", kind, "--output=json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Incomplete(done.stderr.strip())
    listed: dict[str, Any] = json.loads(done.stdout)
    return listed


if __name__ == "__main__":
    sys.exit(main())
