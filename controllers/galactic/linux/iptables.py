"""The process that puts firewall rules into place: ``python -m galactic.linux.iptables``.

Reads ``{"backend": "legacy"|"nft"|"", "rules": […]}`` from standard input and writes ``{"backend", "reason",
"changed"}``; on failure it exits 1 with one line on standard error. Legacy tables go through python-iptables, others
through iptables-nft, whose rules python-iptables cannot see.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
    """The backend to use, and why: the one that others use here, or else legacy tables where the kernel has them."""
    in_use = {name for path in _IN_USE.values() if path.exists() for name in path.read_text().split()}
    if in_use:
        return "legacy", f"legacy tables are in use: {', '.join(sorted(in_use))}"
    try:
        lines = _run(_COMMANDS[6], "-w", _WAIT_SECONDS, "-S").splitlines()
        lines += _run(_COMMANDS[4], "-w", _WAIT_SECONDS, "-S").splitlines()
    except (OSError, RuntimeError) as error:
        return "legacy", f"iptables-nft does not work here: {error}"
    if any(not line.startswith("-P") or not line.endswith("ACCEPT") for line in lines):
        return "nft", "iptables-nft has rules or policies already"
    try:
        import iptc  # noqa: PLC0415 - costs a second in a slow kernel, and only here and in _legacy

        iptc.Table6(iptc.Table6.RAW)
    except Exception as error:  # noqa: BLE001 - whatever it is, legacy tables are not to be had
        return "nft", f"no legacy tables: {error}"
    return "legacy", "nobody has rules yet, and the kernel has legacy tables"


def _legacy(place: Place, rules: Sequence[FirewallRule]) -> bool:
    """Whether something had to be changed. One commit a table: there is no moment with half of it."""
    import iptc  # noqa: PLC0415 - looks for libraries when imported

    family, name = place
    parent_name, own_name = CHAINS[name]
    kind = iptc.Table6 if family == 6 else iptc.Table
    table = kind(name, autocommit=False)
    wanted = [_legacy_rule(iptc, rule) for rule in rules]
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
    import iptc  # noqa: PLC0415

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
    import iptc  # noqa: PLC0415

    parent = iptc.Chain(table, parent_name)
    for rule in parent.rules:
        if rule.target and rule.target.name == own_name:
            parent.delete_rule(rule)
    if table.is_chain(own_name):
        iptc.Chain(table, own_name).flush()
        table.delete_chain(own_name)


def _legacy_rule(iptc: Any, rule: FirewallRule) -> Any:
    made = iptc.Rule6() if rule.family == 6 else iptc.Rule()
    if rule.in_interface:
        made.in_interface = rule.in_interface
    if rule.out_interface:
        made.out_interface = rule.out_interface
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
        )
        for rule in rules
    ]


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
