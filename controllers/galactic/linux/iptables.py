"""The process that puts firewall rules into place: ``python -m galactic.linux.iptables``.

Reads ``{"backend": "legacy"|"nft"|"", "rules": […]}`` from standard input and writes ``{"backend", "reason",
"changed"}``; on failure it exits 1 with one line on standard error. Legacy tables go through python-iptables, others
through iptables-nft, whose rules python-iptables cannot see.
"""

import ctypes.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from galactic.linux.firewall import CHAINS, PLACES, FirewallRule

_COMMANDS: Final = {4: "iptables-nft", 6: "ip6tables-nft"}
_IN_USE: Final = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_ATTEMPTS: Final = 6
_WAIT_SECONDS: Final = "10"  # for the lock that all iptables programs share

Place = tuple[int, str]
Backend = Callable[[Place, Sequence[FirewallRule]], bool]


def main() -> None:
    """Does the work asked for on standard input."""
    try:
        order = json.load(sys.stdin)
        rules = [FirewallRule(**rule) for rule in order["rules"]]
        backend, reason = (order["backend"], "as asked for") if order["backend"] else detected()
        install: Backend = _legacy if backend == "legacy" else _nft
        changed = []
        for family, table in PLACES:
            wanted = [rule for rule in rules if (rule.family, rule.table) == (family, table)]
            if install((family, table), wanted):
                changed.append(f"IPv{family} {table}")
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line for the parent process
        sys.exit(f"{type(error).__name__}: {error}")
    json.dump({"backend": backend, "reason": reason, "changed": changed}, sys.stdout)


def detected() -> tuple[str, str]:
    """The backend to use, and why: the one with more rules of whomever, since both front ends' rules apply to every
    packet, and to be accepted by one is no help against the other; else legacy tables where the kernel has them.
    """
    count = {"legacy": 0, "nft": 0}
    for family in (4, 6):
        used = _IN_USE[family].read_text().split() if _IN_USE[family].exists() else []
        if "filter" in used:  # asking for a legacy table makes the kernel have it
            count["legacy"] += _touched(_COMMANDS[family].replace("nft", "legacy"))
        count["nft"] += _touched(_COMMANDS[family])
    if any(count.values()):
        chosen = "nft" if count["nft"] > count["legacy"] else "legacy"
        return chosen, f"{count['legacy']} rules and policies in legacy tables, {count['nft']} in nft"
    try:
        iptc = _iptc()
        iptc.Table6(iptc.Table6.RAW)
    except Exception as error:  # noqa: BLE001 - whatever it is, legacy tables are not to be had
        return "nft", f"no legacy tables: {error}"
    return "legacy", "nobody has rules yet, and the kernel has legacy tables"


def _touched(command: str) -> int:
    """How many lines of the filter table are not as they are in an untouched one; 0 if it cannot be read."""
    try:
        lines = _run(command, "-w", _WAIT_SECONDS, "-S").splitlines()
    except (OSError, RuntimeError):
        return 0
    return sum(not (line.startswith("-P") and line.endswith("ACCEPT")) for line in lines)


@cache
def _iptc() -> Any:
    """python-iptables, which looks for libraries when imported, made to keep away from tables that are not ours.

    It asks every table whether the target of a jump is a chain of it, and a table that is asked springs into being;
    with ``nat`` comes connection tracking. For its libraries and their extensions it would ask gcc, ld and ldconfig,
    a dozen processes in all: they are found by looking where they are.
    """
    for folder in _libraries("xtables"):
        os.environ.setdefault("XTABLES_LIBDIR", str(folder))
    asking = ctypes.util.find_library
    ctypes.util.find_library = _library
    try:
        import iptc  # noqa: PLC0415
    finally:
        ctypes.util.find_library = asking

    for kind, family in ((iptc.Table, 4), (iptc.Table6, 6)):
        for name in ("filter", "mangle", "nat", "raw", "security"):
            kind.existing_table_names[name] = (family, name) in PLACES
    return iptc


def _library(name: str) -> str | None:
    """As ``ctypes.util.find_library``: the file name of a shared library, to be loaded by the dynamic linker."""
    found = sorted(_libraries(f"lib{name}.so.[0-9]*"), key=lambda path: len(path.name))
    return found[0].name if found else None


def _libraries(pattern: str) -> list[Path]:
    """What lies in the folders of libraries by that name."""
    usr = Path("/usr")
    return [*usr.glob(f"lib*/{pattern}"), *usr.glob(f"lib*/*/{pattern}")]


def _legacy(place: Place, rules: Sequence[FirewallRule]) -> bool:
    """Whether something had to be changed. One commit a table: there is no moment with half of it."""
    iptc = _iptc()
    family, name = place
    parent_name, own_name = CHAINS[name]
    kind = iptc.Table6 if family == 6 else iptc.Table
    table = kind(name, autocommit=False)
    wanted = [_legacy_rule(rule) for rule in rules]
    changed = False
    for attempt in range(_ATTEMPTS):
        table.refresh()
        parent = iptc.Chain(table, parent_name)
        own = iptc.Chain(table, own_name) if table.is_chain(own_name) else None
        jumps = [rule for rule in parent.rules if rule.target and rule.target.name == own_name]
        there = own is not None and _told(own.rules) == _told(wanted)
        if (there and jumps) if rules else (own is None and not jumps):
            return changed
        if attempt == _ATTEMPTS - 1:
            break
        try:
            if rules:
                _legacy_fill(table, parent_name, own_name, None if there else wanted, jump=not jumps)
            else:
                _legacy_clear(table, parent_name, own_name)
            table.commit()
            changed = True
        except iptc.IPTCError as error:
            sys.stderr.write(f"{error}; trying again\n")  # EAGAIN: somebody else has committed meanwhile
            time.sleep(0.05 * 2**attempt)
    raise RuntimeError(f"the IPv{family} {name} table does not take our rules")


def _legacy_fill(
    table: Any, parent_name: str, own_name: str, rules: Sequence[Any] | None, *, jump: bool
) -> None:
    iptc = _iptc()
    if rules is not None:
        own = iptc.Chain(table, own_name) if table.is_chain(own_name) else table.create_chain(own_name)
        own.flush()
        for rule in rules:
            own.append_rule(rule)
    if jump:
        made = iptc.Rule6() if isinstance(table, iptc.Table6) else iptc.Rule()
        made.create_target(own_name)
        iptc.Chain(table, parent_name).insert_rule(made)


def _legacy_clear(table: Any, parent_name: str, own_name: str) -> None:
    iptc = _iptc()
    parent = iptc.Chain(table, parent_name)
    for rule in parent.rules:
        if rule.target and rule.target.name == own_name:
            parent.delete_rule(rule)
    if table.is_chain(own_name):
        iptc.Chain(table, own_name).flush()
        table.delete_chain(own_name)


def _legacy_rule(rule: FirewallRule) -> Any:
    iptc = _iptc()
    made = iptc.Rule6() if rule.family == 6 else iptc.Rule()
    if rule.in_interface:
        made.in_interface = rule.in_interface
    if rule.out_interface:
        made.out_interface = rule.out_interface
    if rule.family == 6:
        # python-iptables 1.2 makes IPv6 masks of 0x01 bytes: then G+ is every name that begins oddly, eth0 too
        made.entry.ipv6.iniface_mask = b"\xff" * len(made.entry.ipv6.iniface_mask)
        made.entry.ipv6.outiface_mask = b"\xff" * len(made.entry.ipv6.outiface_mask)
    if rule.source:
        made.src = ("!" if rule.outside else "") + rule.source
    if rule.destination:
        made.dst = rule.destination
    if rule.icmpv6 is not None:
        made.protocol = str(socket.IPPROTO_ICMPV6)
        made.create_match("icmp6").set_parameter("icmpv6_type", str(rule.icmpv6))
    made.create_target(rule.target)
    return made


def _told(rules: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rules as comparable values: python-iptables' own == takes ACCEPT and DROP for the same."""
    return [
        (
            rule.in_interface,
            rule.out_interface,
            rule.src,
            rule.dst,
            rule.protocol,
            [(match.name, match.get_all_parameters()) for match in rule.matches],
            rule.target.name if rule.target else "",
            _masks(rule),
        )
        for rule in rules
    ]


def _masks(rule: Any) -> tuple[bytes, bytes] | None:
    """Of an IPv6 rule's interfaces: what is written for them is not what python-iptables tells."""
    header = getattr(rule.entry, "ipv6", None)
    return (header.iniface_mask, header.outiface_mask) if header else None


def _nft(place: Place, rules: Sequence[FirewallRule]) -> bool:
    """Whether something had to be changed. One transaction a table."""
    family, table = place
    parent, own = CHAINS[table]
    command = [_COMMANDS[family], "-w", _WAIT_SECONDS, "-t", table]
    wanted = [f"-A {own} {_arguments(rule)}" for rule in rules]
    there = _lines(*command, "-S", own)
    jump = _lines(*command, "-C", parent, "-j", own) is not None
    if (there is not None and there[1:] == wanted and jump) if rules else (there is None and not jump):
        return False
    script = [f"*{table}"]
    if rules:
        script += [f":{own} - [0:0]", *wanted, *([] if jump else [f"-I {parent} -j {own}"])]
    else:
        script += [f"-D {parent} -j {own}"] if jump else []
        script += [f"-F {own}", f"-X {own}"] if there is not None else []
    _run(
        f"{_COMMANDS[family]}-restore",
        "-w",
        _WAIT_SECONDS,
        "--noflush",
        given="\n".join([*script, "COMMIT", ""]),
    )
    return True


def _arguments(rule: FirewallRule) -> str:
    """As ``iptables -S`` prints it."""
    parts = []
    if rule.source:
        parts.append(f"{'! ' if rule.outside else ''}-s {rule.source}")
    if rule.destination:
        parts.append(f"-d {rule.destination}")
    if rule.in_interface:
        parts.append(f"-i {rule.in_interface}")
    if rule.out_interface:
        parts.append(f"-o {rule.out_interface}")
    if rule.icmpv6 is not None:
        parts.append(f"-p ipv6-icmp -m icmp6 --icmpv6-type {rule.icmpv6}")
    return " ".join([*parts, f"-j {rule.target}"])


def _lines(*command: str) -> list[str] | None:
    """What the command printed; None if it says that there is no such thing."""
    try:
        return _run(*command).splitlines()
    except RuntimeError:
        return None


def _run(*command: str, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{command[0]}: {complaint[0]}")
    return done.stdout


if __name__ == "__main__":
    main()
