"""A cluster as it is installed, in figures: ``python -P bench/cluster [--preloaded COUNT] [NODES:ATTACHMENTS…]``.

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

With ``--preloaded`` the first COUNT attachments are there before the programs start (``preload.py``), as after a
restart of everything; figures of pods are those of the others. The table then has the start as well: its writes, which
should be none; seconds until each program is ready by its own account, nodes when they have all pods, and until it
has all attachments and nothing to do; and RSS afterwards.

NodeSegments list their node's attachments, with some 430 bytes each, and are written as a whole: 3,000 on a node are
as many as etcd takes in an object. 100 on a node are as many as a kubelet takes (110).
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from measurement import Measurement
from plan import template_numbers
from processes import cluster
from report import details, table
from result import Result

from galactic.kube.client import connect

SIZES: Final = ("10:500", "100:10000", "1000:10000")
PACED: Final = 200
CHANGES: Final = 20


async def measure(nodes: int, attachments: int, preloaded: int) -> Result:
    rest = attachments - preloaded
    paced, changes = min(PACED, rest), min(CHANGES, rest)
    with cluster(nodes) as made:
        os.environ["KUBECONFIG"] = str(made.folder / "kubeconfig")
        async with await connect() as kube:
            measurement = Measurement(
                made, kube, attachments, paced=paced, changes=changes, preloaded=preloaded
            )
            return await measurement.run()


def parsed(size: str, preloaded: int) -> tuple[int, int]:
    """Nodes and attachments. Raises SystemExit where too few pods leave the measured nodes without VPCs."""
    nodes, attachments = map(int, size.split(":"))
    if attachments < (least := nodes + min(PACED, nodes)):
        raise SystemExit(f"{size}: {nodes} nodes take {least} attachments at least")
    if preloaded and not max(template_numbers(nodes)) < preloaded < attachments:
        raise SystemExit(f"{size}: of these, {nodes + 2} to {attachments - 1} attachments can be preloaded")
    return nodes, attachments


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sizes", nargs="*", default=SIZES, metavar="NODES:ATTACHMENTS")
    parser.add_argument(
        "--preloaded",
        type=int,
        default=0,
        metavar="COUNT",
        help="attachments that are there before the programs start, as copies of some that the system made (0)",
    )
    given = parser.parse_args()
    results = []
    for nodes, attachments in [parsed(size, given.preloaded) for size in given.sizes]:
        results.append(asyncio.run(measure(nodes, attachments, given.preloaded)))
        print("\n".join(("", *table(results), "", *details(results[-1:]))), flush=True)


if __name__ == "__main__":
    main()
