"""Random operations on one node, through the CNI plugin as a runtime calls it; runs on that node, in the lab's kernel.

``operations.py PLUGIN SEED COUNT``: makes and removes namespaces called ``wild-N``, attaches them to VPCs that
only this node knows, calls ADD and DEL too often, lets namespaces vanish without a DEL, and kills the node controller.
One line of JSON at the end: the namespaces that are attached, each with its interfaces, and how often what was done.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

VPCS = ("1hVwxnaA0", "1hVwxnaA1", "1hVwxnaA2")  # base62, near the end of what there is
FUNCTIONS = tuple("0123456789abcdefghijkl")[1:]
TRY_AGAIN = 11
TRIES = 600


class Node:
    """A runtime's view of what it has attached: (container, interface) → slot."""

    def __init__(self, plugin: str, chance: random.Random) -> None:
        self._plugin, self._chance = plugin, chance
        self._made = 0
        self.held: dict[tuple[int, str], tuple[str, str]] = {}
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        """One operation."""
        operations = [self.add] * 8 + [self.add_again] * 2 + [self.delete] * 4
        operations += [self.delete_again, self.vanish, self.second_interface, self.second_interface]
        operation = self._chance.choice(operations)
        if self._chance.random() < 0.02:
            operation = self.kill
        operation()
        self.done[operation.__name__] += 1

    def add(self) -> None:
        if slot := self._free():
            self._made += 1
            subprocess.run(["ip", "netns", "add", f"wild-{self._made}"], check=True)
            self._attach((self._made, "galactic0"), slot)

    def add_again(self) -> None:
        if self.held:
            which = self._chance.choice(sorted(self.held))
            self._attach(which, self.held[which])

    def second_interface(self) -> None:
        slot = self._free()
        # (not in a VPC that it is in already: both interfaces would lead to the same networks)
        taken_by = {number for (number, _), (vpc, _) in self.held.items() if slot and vpc == slot[0]}
        containers = sorted({number for number, _ in self.held} - taken_by)
        if slot and containers:
            number = self._chance.choice(containers)
            taken = {name for other, name in self.held if other == number}
            self._attach(
                (number, next(f"galactic{n}" for n in range(9) if f"galactic{n}" not in taken)), slot
            )

    def delete(self) -> None:
        if self.held:
            number = self._chance.choice(sorted(self.held))[0]
            for which in sorted(each for each in self.held if each[0] == number):
                self._call("DEL", which, self.held.pop(which))
            subprocess.run(["ip", "netns", "delete", f"wild-{number}"], check=True)

    def delete_again(self) -> None:
        self._call("DEL", (self._made + 1000, "galactic0"), (VPCS[0], FUNCTIONS[0]))

    def vanish(self) -> None:
        if self.held:
            number = self._chance.choice(sorted(self.held))[0]
            self.held = {which: slot for which, slot in self.held.items() if which[0] != number}
            subprocess.run(["ip", "netns", "delete", f"wild-{number}"], check=True)

    def kill(self) -> None:
        for pid in controllers():
            with suppress(OSError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)

    def _free(self) -> tuple[str, str] | None:
        taken = set(self.held.values())
        free = [(vpc, function) for vpc in VPCS for function in FUNCTIONS if (vpc, function) not in taken]
        return self._chance.choice(free) if free else None

    def _attach(self, which: tuple[int, str], slot: tuple[str, str]) -> None:
        self._call("ADD", which, slot)
        self.held[which] = slot

    def _call(self, command: str, which: tuple[int, str], slot: tuple[str, str]) -> None:
        """As a kubelet calls: again while it is told to. A slot whose namespace vanished is free once that was seen."""
        number, ifname = which
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"wild{number}",
            "CNI_NETNS": f"/run/netns/wild-{number}",
            "CNI_IFNAME": ifname,
            "CNI_PATH": str(Path(self._plugin).parent),
        }
        for _ in range(TRIES):
            done = subprocess.run(
                [self._plugin],
                input=json.dumps(config(*slot)).encode(),
                env=os.environ | variables,
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return
            answer: dict[str, Any] = json.loads(done.stdout or b"{}")
            if answer.get("code") != TRY_AGAIN:
                break
            subprocess.run(["sleep", "0.5"], check=True)
        sys.exit(f"{command} {which} {slot}: {done.stdout.decode()} {done.stderr.decode()}")


def controllers() -> list[int]:
    """Process ids, in the node, of its controller: a fork of the program that makes nodes, as init is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"galactic_lab.node.nodes" in path.read_bytes() and path.parent.name != "1":
                found.append(int(path.parent.name))
    return found


def config(vpc: str, function: str) -> dict[str, Any]:
    """A network as the operator writes it: an address of each family, a termination with every third."""
    last = FUNCTIONS.index(function) + 1
    mine = f"10.9.{VPCS.index(vpc)}.{last}"
    terminations = [{"network": f"192.168.{last}.0/24", "via": mine}] if last % 3 == 0 else []
    return {
        "cniVersion": "1.0.0",
        "name": f"wild-{vpc}-{function}",
        "type": "galactic",
        "vpc": vpc,
        "vpcattachment": function,
        "attachment": f"wild/{vpc.lower()}-{function}",
        "addresses": [f"{mine}/24", f"2001:10:9:{VPCS.index(vpc)}::{last:x}/64"],
        "networks": [f"10.9.{VPCS.index(vpc)}.0/24", f"2001:10:9:{VPCS.index(vpc)}::/64"],
        "terminations": terminations,
    }


def main() -> None:
    plugin, seed, count = sys.argv[1:]
    if not controllers():
        sys.exit("there is no node controller here to kill")
    node = Node(plugin, random.Random(int(seed)))
    for _ in range(int(count)):
        node.step()
    held: dict[str, list[str]] = {}
    for number, ifname in sorted(node.held):
        held.setdefault(f"wild-{number}", []).append(ifname)
    sys.stdout.write(json.dumps({"held": held, "done": node.done}) + "\n")


if __name__ == "__main__":
    main()
