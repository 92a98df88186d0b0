"""The part of ``cni.py`` that needs VRFs; it is started by that, as root of a machine or guest of its own.

Two nodes, each a network namespace with a whole ``galactic-node`` that has neither broker nor API server and knows its
prefix from its records: one stays nearly empty, the other is filled. Pods are namespaces held open by this process.
"""

import asyncio
import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPACE = "2001:db8:ff00::/40"
FEW = 10
AT_ONCE = 20
CLONE_NEWNET = 0x40000000
Call = tuple[list[str], dict[str, str], bytes]


def pod() -> str:
    """The path of a new network namespace."""
    made: list[int] = []

    def unshare() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=unshare)
    thread.start()
    thread.join()
    return f"/proc/{os.getpid()}/fd/{made[0]}"


def base62(number: int) -> str:
    return (base62(number // 62) if number >= 62 else "") + DIGITS[number % 62]


class Node:
    """One node controller in a namespace of its own."""

    def __init__(self, work: Path, number: int, *, stand_in: bool) -> None:
        self.name, self.work, self.stand_in = f"n{number}", work, stand_in
        self.folder = work / self.name
        self.socket = self.folder / "agent.sock"

    def start(self, number: int) -> None:
        self.folder.mkdir(mode=0o700)
        prefix = f"2001:db8:ff{number:02x}:100::/56"
        (self.folder / "node.json").write_text(json.dumps({"prefix": prefix, "clock": 0, "filtered": ""}))
        for command in (
            f"ip netns add {self.name}",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} link add eth0 type veth peer name eth1",
            f"ip -n {self.name} link set eth1 up",
            f"ip -n {self.name} link set eth0 up",
            f"ip -n {self.name} addr add fd00::{number}/64 dev eth0 nodad",
            f"ip -n {self.name} -6 route add default via fd00::ffff dev eth0",
        ):
            subprocess.run(command.split(), check=True)
        program = [str(Path(__file__).with_name("cni_standin.py")), str(self.socket), prefix]
        program += ["--stand-in"] if self.stand_in else []
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, *program], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Waits until STATUS succeeds: pods can be attached."""
        deadline = time.monotonic() + 120
        while True:
            out, code = run(self.plugin("STATUS", 0, "", cniVersion="1.1.0"))
            if code == 0:
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(
                    f"{self.name} is not ready: {out.decode()}\n{(self.folder / 'log').read_text()[-3000:]}"
                )
            time.sleep(0.5)

    def body(self, number: int, **more: object) -> bytes:
        """A configuration of the attachment of that number, in a VPC of all."""
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        config = {
            "cniVersion": "1.0.0",
            "name": f"a{number}",
            "type": "galactic",
            "vpc": "jU",
            "vpcattachment": base62(number),
            "attachment": f"bench/a{number}",
            "addresses": [f"{address}/8"],
            "networks": ["10.0.0.0/8"],
        }
        return json.dumps(config | more).encode()

    def plugin(self, command: str, number: int, netns: str, **more: object) -> Call:
        variables = environment(command, number, netns) | {"GALACTIC_SOCKET": str(self.socket)}
        return [str(self.work / "bin" / "galactic")], variables, self.body(number, **more)

    async def fill(self, count: int) -> None:
        """So many attachments, by requests as the plugin's, some at a time."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            netns = pod()
            async with limit:
                reader, writer = await asyncio.open_unix_connection(self.socket)
                body = self.body(number)
                lines = [f"{name}: {value}" for name, value in environment("ADD", number, netns).items()]
                head = ["POST /cni/v1/add HTTP/1.1", "Host: x", "Connection: close", *lines]
                writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
                reply = await reader.read()
                writer.close()
                if b" 200 " not in reply[:20]:
                    sys.exit(f"filling failed: {reply.decode()}")

        await asyncio.gather(*(one(30_000 + number) for number in range(count)))


def environment(command: str, number: int, netns: str) -> dict[str, str]:
    given = {"CNI_COMMAND": command, "CNI_CONTAINERID": f"c{number}", "CNI_IFNAME": "galactic0"}
    return given | ({"CNI_NETNS": netns} if netns else {})


def ptp(work: Path, command: str, number: int, netns: str) -> Call:
    """The same with ptp and host-local, on the same kernel. IPv4 alone: for IPv6 ptp waits until the kernel has looked
    for duplicates, more than a second.
    """
    config = {
        "cniVersion": "1.0.0",
        "name": "go",
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "dataDir": str(work / "ipam"),
            "ranges": [[{"subnet": "10.0.0.0/8"}]],
        },
    }
    variables = environment(command, number, netns) | {
        "CNI_PATH": str(work / "go"),
        "PATH": os.environ["PATH"],
    }
    return [str(work / "go" / "ptp")], variables, json.dumps(config).encode()


def run(call: Call) -> tuple[bytes, int]:
    command, variables, body = call
    done = subprocess.run(command, env=variables, input=body, stdout=subprocess.PIPE, check=False)
    return done.stdout, done.returncode


def timed(call: Call) -> float:
    """Milliseconds of a call that must succeed."""
    begin = time.perf_counter()
    out, code = run(call)
    taken = time.perf_counter() - begin
    if code:
        sys.exit(f"{call[0]} failed: {out.decode()}")
    return taken * 1000


def print_figures(name: str, figures: dict[str, list[float]]) -> None:
    print(f"measured: {name} {json.dumps(figures)}", flush=True)


def call(where: Node | Path, command: str, number: int, netns: str) -> Call:
    """Of a node of ours, or of the Go plugins in a folder."""
    return (
        where.plugin(command, number, netns)
        if isinstance(where, Node)
        else ptp(where, command, number, netns)
    )


def alternating(calls: dict[str, "tuple[Node | Path, int]"], repeats: int) -> dict[str, list[float]]:
    """An ADD of each, one after the other, then the DELs; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        netns = {name: pod() for name in calls}
        for name, (where, first) in calls.items():
            taken = timed(call(where, "ADD", first + round_, netns[name]))
            if round_:
                times[name].append(taken)
        for name, (where, first) in calls.items():
            run(call(where, "DEL", first + round_, netns[name]))
        time.sleep(0.3)
    return times


def at_once(node: Node, count: int) -> dict[str, list[float]]:
    """So many plugins at the same time; then their DELs."""
    places = [pod() for _ in range(count)]
    started = []
    begin = time.perf_counter()
    for number, netns in enumerate(places):
        command, variables, body = node.plugin("ADD", 20_000 + number, netns)
        process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        process.stdin.write(body)
        process.stdin.close()
        started.append(process)
    failed = []
    for number, process in enumerate(started):
        assert process.stdout
        output = process.stdout.read()
        if process.wait():
            failed.append(number)
            print(f"ADD {number}: {output.decode().strip()}", flush=True)
    return {"seconds": [time.perf_counter() - begin], "failed": failed}


def main() -> None:
    work, repeats, present, parallel = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    few, many = (Node(work, number, stand_in="--stand-in" in sys.argv) for number in (1, 2))
    for number, node in enumerate((few, many), 1):
        node.start(number)
    try:
        for node in (few, many):
            node.wait()
        asyncio.run(few.fill(FEW))
        print_figures("add", alternating({"galactic": (few, 1000), "go": (work, 1000)}, repeats))
        begin = time.perf_counter()
        asyncio.run(many.fill(present))
        print(f"{present} attachments made in {time.perf_counter() - begin:.0f} s", flush=True)
        print_figures("present", alternating({"few": (few, 2000), "many": (many, 2000)}, repeats))
        print_figures("parallel", at_once(few, parallel))
    finally:
        for node in (few, many):
            node.process.terminate()
            node.process.wait()


if __name__ == "__main__":
    main()
