"""A cluster as it is installed, in figures: ``python -P bench/cluster [NODES:ATTACHMENTS…]``.

For each size (10:500, 100:10000 and 1000:10000 unless given), one after the other: an operator, a webhook, two routers
and that many nodes beside a real etcd, API server and Mosquitto. All are the real programs, each under a meter and with
a user of its own; nodes have no kernel (``nodes.py``), and up to 250 share a process. Pods are created and bound;
everything else is Galactic's. One VPC has a pod of each node, the others 100 pods of ten nodes. A table has all
sizes so far:

writes: requests of our programs that change objects, by the API server's audit log, Leases aside; lists likewise.
turns: processor time of the loop's longest turn; of nodes the longest step, because they share a loop.
memory: RSS an attachment, beside the same processes without attachments; after all were added, and after a restart.
bound to reachable: from the binding until the last node of the VPC has the route.
change: processor time while one pod comes and goes in the VPC of all nodes, beside that of an idle cluster, and its
ratio to that of the first size.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from measurement import Measurement
from processes import cluster
from report import details, table
from result import Result

from galactic.kube.client import connect

SIZES: Final = ("10:500", "100:10000", "1000:10000")
PACED: Final = 200
CHANGES: Final = 20


async def measure(nodes: int, attachments: int) -> Result:
    paced, changes = min(PACED, attachments), min(CHANGES, attachments)
    with cluster(nodes) as made:
        os.environ["KUBECONFIG"] = str(made.folder / "kubeconfig")
        async with await connect() as kube:
            return await Measurement(made, kube, attachments, paced=paced, changes=changes).run()


def parsed(size: str) -> tuple[int, int]:
    """Nodes and attachments. Raises SystemExit where too few pods leave the measured nodes without VPCs."""
    nodes, attachments = map(int, size.split(":"))
    if attachments < (least := nodes + min(PACED, nodes)):
        raise SystemExit(f"{size}: {nodes} nodes take {least} attachments at least")
    return nodes, attachments


def main() -> None:
    results = []
    for nodes, attachments in [parsed(size) for size in sys.argv[1:] or SIZES]:
        results.append(asyncio.run(measure(nodes, attachments)))
        print("\n".join(("", *table(results), "", *details(results[-1:]))), flush=True)


if __name__ == "__main__":
    main()
