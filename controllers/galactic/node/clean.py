"""galactic-node-clean: takes what Galactic made off this host's kernel, after Galactic was uninstalled.

Devices, routes, rules, chains and kept neighbours; the kernel's policy rules are in the order of before. It refuses
while pods are attached or the node controller runs. Sysctls stay: other programs may depend on them by now.
"""

import argparse
import asyncio
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.linux.firewall import install
from galactic.linux.kernel import LinuxKernel
from galactic.linux.nftables import Nftables, Table, rewrite
from galactic.linux.objects import Change, Objects, change, route_of
from galactic.names import parse_interface
from galactic.node.dataplane import fragments, gateway_rules
from galactic.node.policies import ruleset

PROGRAM: Final = "galactic-node-clean"
SOCKET: Final = Path("/var/run/galactic/agent.sock")
NAMED: Final = 3


async def clean(agent: Path, *, force: bool = False) -> list[str]:
    """Deletes all objects of Galactic. ``agent``: the node controller's socket. Returns the deleted objects in words.

    Raises Rejected while the node controller answers, or pods are attached, unless ``force``; Unreachable if the kernel
    refuses.
    """
    if _answers(agent):
        raise Rejected(
            f"the node controller runs here ({agent}) and would put everything back: uninstall it first"
        )
    async with LinuxKernel() as kernel:
        present = await kernel.read()
        ends = [name for name in present.links if (parts := parse_interface(name)) and parts[2] == "H"]
        if ends and not force:
            first = ", ".join(ends[:NAMED])
            raise Rejected(
                f"{len(ends)} pods are attached here ({first}): delete them, or cut them off with --force"
            )
        surplus = change(Objects(), present)
        await kernel.write(surplus)
        released = await kernel.release_next_hops()
    filtered = await install(())
    hops = (f"neighbour {address} on {device}" for device, address in released)
    return [
        *words(surplus),
        *hops,
        *(f"chain {chain}" for chain in filtered.changed),
        *await _without_tables(),
    ]


async def _without_tables() -> list[str]:
    """Deletes Galactic's own tables; none where the host has no nf_tables, and so no such table."""
    nftables, deleted = Nftables(), list[str]()
    for table in (ruleset.TABLE, gateway_rules.TABLE, fragments.TABLE):
        try:
            present = await nftables.present(table)
        except Unreachable:
            return deleted
        if present.exists:
            await nftables.apply(rewrite(present, Table(table)))
            deleted.append(f"table {table}")
    return deleted


def words(surplus: Change) -> Iterator[str]:
    """The objects that are deleted."""
    for name in surplus.links.delete:
        yield f"link {name}"
    for key in surplus.routes.delete:
        yield "route {1} in table {0}".format(*route_of(key))
    for rule in surplus.rules.delete:
        yield f"rule {rule.priority}"
    for family in surplus.lookups.delete:
        yield f"order of the IPv{family} policy rules"


def _answers(agent: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.connect(str(agent))
        except OSError:
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit code 1 where it refuses or the kernel does."""
    parser = argparse.ArgumentParser(PROGRAM, description="Takes what Galactic made off this host's kernel.")
    parser.add_argument("--force", action="store_true", help="also while pods are attached: it cuts them off")
    parser.add_argument(
        "--socket", type=Path, default=SOCKET, help="the node controller's (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        deleted = asyncio.run(clean(options.socket, force=options.force))
    except GalacticError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(1) from error
    sys.stdout.writelines(f"deleted {text}\n" for text in deleted)
    sys.stdout.write("nothing of Galactic is in this host's kernel\n")


if __name__ == "__main__":
    main()
