"""Rate and cost of attachments that become ready: ``python -P bench/operator [COUNT…]``.

Each COUNT (500, 2000 and 5000 unless given) gets an etcd, an API server and an operator of its own on this machine. All
attachments, in 20 VPCs, are created at once; the clock runs from the first request to the last ``status.ready``.

Requests are counted by the API server, from all parts of the operator; those of this program are subtracted. CPU and
memory are the operator process's (/proc). Growth is time and CPU an object relative to the first COUNT; on a machine
that does other things as well, go by the latter.
"""

import asyncio
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servers import api_server, free_port, install, running, scraped

from galactic.kube.api import Key, Object
from galactic.kube.client import Kube, connect
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NAMESPACES, VPC_ATTACHMENTS, VPCS
from galactic.names import API_VERSION

COUNTS: Final = (500, 2000, 5000)
VPC_COUNT: Final = 20
NAMESPACE: Final = "bench"
CREATING: Final = 16
LIMIT_SECONDS: Final = 600.0
OURS: Final = re.compile(
    r'apiserver_request_total\{.*resource="(vpcs|vpcattachments|network-attachment-definitions|nodesegments|events|'
    r'nodes|namespaces|pods|leases)".*verb="(?!CONNECT|WATCH)'
)


@dataclass(frozen=True, slots=True)
class Result:
    count: int
    seconds: float
    requests: float
    cpu: float
    memory: float  # bytes an attachment


async def measure(count: int) -> Result:
    with api_server() as folder:
        os.environ["KUBECONFIG"] = str(folder / "kubeconfig")
        async with await connect() as kube:
            await install(kube)
            await kube.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
            port = free_port()
            environment = {"GALACTIC_METRICS_PORT": str(port), "GALACTIC_LOG_LEVEL": "warning"}
            profile = os.environ.get("PROFILE")  # a file for cProfile
            started = ["-m", "cProfile", "-o", profile] if profile else []
            argv = [sys.executable, "-P", *started, "-m", "galactic.operator"]
            log = Path(os.environ.get("LOG", folder / "operator.log"))
            with running(*argv, log=log, environment=environment) as pid:
                result = await _story(kube, count, pid)
                if os.environ.get("VERBOSE"):
                    for name, value in scraped(port).items():
                        if "galactic" in name:
                            print(name, value)
                return result


async def _story(kube: Kube, count: int, pid: int) -> Result:
    ready: set[Key] = set()
    done, vpcs_ready = asyncio.Event(), asyncio.Event()

    def changed(key: Key, _old: Object | None, new: Object | None) -> None:
        if new and (new.get("status") or {}).get("ready"):
            ready.add(key)
            if len(ready) == count:
                done.set()

    informer = Informer(kube, Selection(VPC_ATTACHMENTS), changed)
    watching = asyncio.create_task(informer.run())
    for number in range(VPC_COUNT):
        await kube.create(VPCS, _vpc(number), NAMESPACE)
    while not vpcs_ready.is_set():
        items, _ = await kube.list(VPCS, NAMESPACE)
        if sum(bool((item.get("status") or {}).get("ready")) for item in items) == VPC_COUNT:
            vpcs_ready.set()
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)
    memory, cpu, requests = _memory(pid), _cpu(pid), await _requests(kube)
    began = time.perf_counter()
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            await kube.create(VPC_ATTACHMENTS, _attachment(number), NAMESPACE)

    await asyncio.gather(*(create() for _ in range(CREATING)))
    created = time.perf_counter() - began
    async with asyncio.timeout(LIMIT_SECONDS):
        await done.wait()
    seconds = time.perf_counter() - began
    watching.cancel()
    await asyncio.sleep(5)  # counts and Events follow
    print(f"  {count}: created in {created:.1f} s, ready after {seconds:.1f} s", file=sys.stderr)
    return Result(
        count,
        seconds,
        await _requests(kube) - requests - count,
        _cpu(pid) - cpu,
        (_memory(pid) - memory) / count,
    )


def _vpc(number: int) -> Object:
    networks = [f"10.{number}.0.0/16", f"2001:db8:{number}::/64"]
    metadata = {"name": f"vpc-{number}", "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": "VPC", "metadata": metadata, "spec": {"networks": networks}}


def _attachment(number: int) -> Object:
    metadata = {"name": f"attachment-{number}", "namespace": NAMESPACE}
    spec = {"vpc": {"apiVersion": API_VERSION, "kind": "VPC", "name": f"vpc-{number % VPC_COUNT}"}}
    return {"apiVersion": API_VERSION, "kind": "VPCAttachment", "metadata": metadata, "spec": spec}


async def _requests(kube: Kube) -> float:
    """Requests that the API server has answered for the kinds that the operator knows, watches left aside."""
    text = await kube.text("/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if OURS.match(line))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or COUNTS
    results = [asyncio.run(measure(count)) for count in counts]
    print(
        f"{'objects':>8} {'seconds':>8} {'objects/s':>10} {'requests':>9} {'CPU':>9} {'RSS/10,000':>11} {'growth':>12}"
    )
    first = results[0]
    for result in results:
        seconds, cpu = result.seconds / result.count, result.cpu / result.count
        print(
            f"{result.count:>8} {result.seconds:>8.1f} {1 / seconds:>10.0f} {result.requests / result.count:>9.2f} "
            f"{cpu * 1e3:>6.2f} ms {result.memory * 10_000 / 2**20:>7.0f} MiB "
            f"{seconds / first.seconds * first.count:>5.2f}, {cpu / first.cpu * first.count:.2f}"
        )


if __name__ == "__main__":
    main()
