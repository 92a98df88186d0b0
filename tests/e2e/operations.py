"""Random operations on one node, through the CNI plugin as a runtime calls it; runs on that node, in the lab's kernel.

``operations.py PLUGIN SEED COUNT``: makes and removes namespaces called ``wild-N``, attaches them by the slots that are
read from stdin, repeats ADD and DEL, removes namespaces without a DEL, and kills the node controller. Prints one line
of JSON at the end: the attached namespaces, each with its interfaces, and how often each operation was done.

A slot is [VPC, attachment (namespace/name), name of the pod that carries it, its UID].
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

Slot = tuple[str, str, str, str]
TRY_AGAIN = 11
TRIES = 600


class Node:
    """A runtime's view of what it has attached: (container, interface) → slot."""

    def __init__(self, plugin: str, chance: random.Random, slots: list[Slot]) -> None:
        self._plugin, self._chance, self._slots = plugin, chance, slots
        self._made = 0
        self.attached: dict[tuple[int, str], Slot] = {}
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
        if self.attached:
            which = self._chance.choice(sorted(self.attached))
            self._attach(which, self.attached[which])

    def second_interface(self) -> None:
        slot = self._free()
        # (not in a VPC that it is in already: both interfaces would lead to the same networks)
        taken_by = {number for (number, _), slot_ in self.attached.items() if slot and slot_[0] == slot[0]}
        containers = sorted({number for number, _ in self.attached} - taken_by)
        if slot and containers:
            number = self._chance.choice(containers)
            taken = {name for other, name in self.attached if other == number}
            self._attach(
                (number, next(f"galactic{n}" for n in range(9) if f"galactic{n}" not in taken)), slot
            )

    def delete(self) -> None:
        if self.attached:
            number = self._chance.choice(sorted(self.attached))[0]
            for which in sorted(attached for attached in self.attached if attached[0] == number):
                self._call("DEL", which, self.attached.pop(which))
            subprocess.run(["ip", "netns", "delete", f"wild-{number}"], check=True)

    def delete_again(self) -> None:
        self._call("DEL", (self._made + 1000, "galactic0"), self._slots[0])

    def vanish(self) -> None:
        if self.attached:
            number = self._chance.choice(sorted(self.attached))[0]
            self.attached = {which: slot for which, slot in self.attached.items() if which[0] != number}
            subprocess.run(["ip", "netns", "delete", f"wild-{number}"], check=True)

    def kill(self) -> None:
        for pid in controllers():
            with suppress(OSError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)

    def _free(self) -> Slot | None:
        taken = set(self.attached.values())
        free = [slot for slot in self._slots if slot not in taken]
        return self._chance.choice(free) if free else None

    def _attach(self, which: tuple[int, str], slot: Slot) -> None:
        self._call("ADD", which, slot)
        self.attached[which] = slot

    def _call(self, command: str, which: tuple[int, str], slot: Slot) -> None:
        """Calls the plugin again while it answers so, as a kubelet does: a slot is taken until the node has noticed
        that its namespace is gone.
        """
        number, ifname = which
        _vpc, attachment, pod, uid = slot
        namespace = attachment.partition("/")[0]
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"wild{number}",
            "CNI_NETNS": f"/run/netns/wild-{number}",
            "CNI_IFNAME": ifname,
            "CNI_ARGS": f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid}",
            "CNI_PATH": str(Path(self._plugin).parent),
        }
        for _ in range(TRIES):
            done = subprocess.run(
                [self._plugin],
                input=json.dumps(config(attachment)).encode(),
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


def config(attachment: str) -> dict[str, Any]:
    """A network of that attachment; the node controller takes nothing else from it."""
    name = attachment.replace("/", "-")
    given = {"vpc": "a", "vpcattachment": "a", "attachment": attachment}
    return {"cniVersion": "1.0.0", "name": name, "type": "galactic", **given}


def main() -> None:
    plugin, seed, count = sys.argv[1:]
    if not controllers():
        sys.exit("there is no node controller here to kill")
    slots = [tuple(slot) for slot in json.load(sys.stdin)]
    node = Node(plugin, random.Random(int(seed)), slots)
    for _ in range(int(count)):
        node.step()
    attached: dict[str, list[str]] = {}
    for number, ifname in sorted(node.attached):
        attached.setdefault(f"wild-{number}", []).append(ifname)
    sys.stdout.write(json.dumps({"attached": attached, "done": node.done}) + "\n")


if __name__ == "__main__":
    main()
