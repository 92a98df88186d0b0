"""The data path between pods on two nodes: ``python bench/datapath [--rounds 5] [--seconds 3]``.

By Galactic's plan, the same with a VPCPolicy on both pods (``rule``: of one rule and peer; ``rules``: of 100 rules and
1,000 peers), beside the same veths routed without VRF and SRv6, and beside VXLAN and Geneve, all in one guest
kernel and in turn: TCP with one stream and eight, packets of 64 bytes a second, round trips. In the world ``counted``,
by the plan too, both nodes read their counters ten times a second. Prints medians, and the median of the ratios to the
routed veths within each round. The goal: 0.9 or more, and ahead of the tunnels.

Installs Debian's iperf3. The guest has one processor, which sender, nodes and receiver share. Packets are counted by
the processor time of the guest's kernel, so other work of the machine does not matter. User Mode Linux has no hardware
counters: ``perf record -e cpu-clock -p`` on the guest's process, with the guest's /proc/kallsyms, names the functions
that take it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from galactic_lab.builds import guest_kernels, packages
from galactic_lab.builds.build_linux import build
from galactic_lab.state import LINUX

INSIDE = Path(__file__).with_name("inside.py")
CHECKOUT = Path(__file__).parents[2]
INIT = """#!/bin/sh
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /tmp; ip link set lo up; uname -r
env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} \\
  {python} {inside} {rounds} {seconds} 2>&1
halt -f
"""
MEASURES = {
    "tcp-1": ("TCP, 1 stream, Gbit/s", True),
    "tcp-8": ("TCP, 8 streams, Gbit/s", True),
    "packets": ("packets of 64 bytes, 1000 by second of the kernel's processor time", True),
    "round-trip": ("round trip, µs", False),
}
"""Each with its name, and whether more is better."""
BASE = "routed"


def processor(process: int) -> float:
    """Seconds that the guest's kernel, one thread, has taken of a processor; programs in the guest are not in it."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def guest(rounds: int, seconds: int) -> dict[str, list[float]]:
    """The results of a run in the guest; its progress goes to standard error."""
    packages.install(("iperf3",))
    source = guest_kernels.resolve(LINUX)
    linux = build(source).ensure(lambda *progress: None) / "linux"  # noqa: ARG005
    with tempfile.TemporaryDirectory() as folder:
        init = Path(folder, "init")
        path = f"{CHECKOUT / 'controllers'}:{INSIDE.parent}"
        words = {"python": sys.executable, "inside": INSIDE, "path": path}
        init.write_text(INIT.format(rounds=rounds, seconds=seconds, **words))
        init.chmod(0o755)
        arguments = "root=/dev/root rootfstype=hostfs rootflags=/ ro mem=2G quiet seccomp=auto con=null con0=null,fd:1"
        command = [
            sys.executable,
            "-P",
            "-m",
            "galactic_lab.kernel.processor",
            str(linux),
            *arguments.split(),
        ]
        command += ["ssl=null", f"uml_dir={folder}", f"init={init}"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            results: dict[str, list[float]] = {}
            began = 0.0
            for line in process.stdout:
                if line.startswith("results: "):
                    results |= json.loads(line.removeprefix("results: "))
                elif line.startswith("flood begins"):
                    began = processor(process.pid)
                elif line.startswith("flood: "):
                    key, count = line.removeprefix("flood: ").rsplit(maxsplit=1)
                    taken = processor(process.pid) - began
                    results.setdefault(key, []).append(int(count) / taken / 1e3)
                else:
                    sys.stderr.write(line)
    if not results:
        sys.exit("the guest has no results")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    given = parser.parse_args()
    results = guest(given.rounds, given.seconds)
    worlds = list(dict.fromkeys(key.split()[2] for key in results))
    for measure, (title, more) in MEASURES.items():
        for family in (4, 6):
            print(f"{title}, IPv{family}")
            base = results[f"{measure} {family} {BASE}"]
            for world in worlds:
                values = results[f"{measure} {family} {world}"]
                ratios = [
                    value / other if more else other / value
                    for value, other in zip(values, base, strict=True)
                ]
                print(f"  {world:9} {statistics.median(values):8.2f}  {statistics.median(ratios):5.2f}")


if __name__ == "__main__":
    main()
