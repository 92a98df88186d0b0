"""Galactic's chains in nftables, through the commands iptables-nft and ip6tables-nft. Blocks, so only the process
``galactic.linux.iptables`` uses it.
"""

import subprocess
from collections.abc import Sequence
from typing import Final

from galactic.linux.firewall import TABLES, FirewallRule, Place, arguments, own
from galactic.linux.precedence import harmless

COMMANDS: Final = {4: "iptables-nft", 6: "ip6tables-nft"}
WAIT_SECONDS: Final = "10"  # for the lock that all iptables programs share


def install(place: Place, rules: Sequence[FirewallRule]) -> bool:
    """Gives Galactic's chain these rules, in one transaction. Returns whether anything changed."""
    family, parent = place
    name, table = own(parent), TABLES[parent]
    wanted = [f"-A {name} {arguments(rule)}" for rule in rules]
    present = chain(place)
    if not rules and present is None:
        return False
    jump = f"-A {parent} -j {name}"
    others = run(*_command(place), "-S", parent).splitlines()
    jumps = [line for line in others if line == jump]
    first = next((line for line in others if line.startswith("-A ")), "") == jump
    first = first or (bool(jumps) and harmless("nft", place))
    if rules and present == wanted and first and len(jumps) == 1:
        return False
    script = [f"*{table}", f":{name} - [0:0]"]  # declaring a chain empties it
    script += [f"-D {parent} -j {name}"] * (len(jumps) if not (rules and first and len(jumps) == 1) else 0)
    if rules:
        script += [*wanted, *([] if first and len(jumps) == 1 else [f"-I {parent} -j {name}"])]
    else:
        script += [f"-X {name}"]
    given = "\n".join([*script, "COMMIT", ""])
    run(f"{COMMANDS[family]}-restore", "-w", WAIT_SECONDS, "--noflush", given=given)
    return True


def chain(place: Place) -> list[str] | None:
    """The rules of Galactic's chain, as ``iptables -S`` prints them; None if there is no such chain."""
    try:
        return run(*_command(place), "-S", own(place[1])).splitlines()[1:]
    except RuntimeError:
        return None


def _command(place: Place) -> list[str]:
    return [COMMANDS[place[0]], "-w", WAIT_SECONDS, "-t", TABLES[place[1]]]


def run(*command: str, given: str | None = None) -> str:
    """A command's output. Raises RuntimeError with its first error line, or OSError if there is no such command."""
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{command[0]}: {complaint[0]}")
    return done.stdout
