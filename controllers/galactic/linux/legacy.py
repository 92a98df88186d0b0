"""Galactic's chains in legacy tables, through python-iptables. It blocks and can crash, so only the process
``galactic.linux.iptables`` uses it.

A table is read, changed and written as a whole. The kernel does not notice a write of another program in between if the
number of rules is the same. So all of it happens under the lock of iptables itself.
"""

import ctypes.util
import errno
import fcntl
import fnmatch
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from galactic.linux import firewall_fingerprint, readback
from galactic.linux.firewall import PLACES, TABLES, FirewallRule, Place, own
from galactic.linux.objects import HOST_ENDS
from galactic.linux.precedence import harmless

LOCK: Final = "/run/xtables.lock"
"""The lock file of all iptables programs; ``XTABLES_LOCKFILE`` names another one for all of them."""
_IN_USE: Final = {
    4: Path("/proc/thread-self/net/ip_tables_names"),  # /proc/net is that of the process
    6: Path("/proc/thread-self/net/ip6_tables_names"),
}
_ATTEMPTS: Final = 6
_LOCK_SECONDS: Final = 10.0


def install(place: Place, rules: Sequence[FirewallRule]) -> bool:
    """Gives Galactic's chain these rules. Returns whether anything changed. One commit, without intermediate states.
    Raises RuntimeError.
    """
    iptc = _iptc()
    family, parent_name = place
    if not rules and (family, TABLES[parent_name]) not in in_use():
        return False
    try:
        wanted = [_rule(rule) for rule in rules]
    except (iptc.XTablesError, ValueError, AttributeError) as error:  # a missing extension
        raise RuntimeError(f"IPv{family} {parent_name}: {error}") from error
    changed = False
    wrong: list[str] = []
    for attempt in range(_ATTEMPTS):
        with _locked():
            table = (iptc.Table6 if family == 6 else iptc.Table)(TABLES[parent_name], autocommit=False)
            table.refresh()
            wrong = _wrong(place, rules)
            if not _fill(table, place, wanted, right=not wrong):
                return changed
            try:
                table.commit()
                changed = True
            except iptc.IPTCError as error:
                if _lasting(error):
                    raise RuntimeError(f"IPv{family} {parent_name}: {error}") from error
                sys.stderr.write(f"{error}; trying again\n")  # EAGAIN: a program that ignores the lock
        time.sleep(0.02 * 2**attempt if not changed else 0)
    problem = "; ".join(wrong) or f"IPv{family} {parent_name} is changed back at once"
    raise RuntimeError(f"legacy tables refuse the rules: {problem}")


def _lasting(error: Exception) -> bool:
    """Whether another attempt is useless. python-iptables reports nothing but text."""
    return os.strerror(errno.EAGAIN) not in str(error) and "try again" not in str(error).lower()


def in_use() -> set[tuple[int, str]]:
    """(family, table) of the legacy tables that exist in this network namespace."""
    return {
        (family, table)
        for family, names in _IN_USE.items()
        if names.exists()
        for table in names.read_text().split()
    }


def missing() -> str | None:
    """Why legacy tables are unavailable; None if they are available."""
    try:
        iptc = _iptc()
        iptc.Table6(iptc.Table6.RAW)
    except Exception as error:  # noqa: BLE001 - any error means that legacy tables are unavailable
        return str(error)
    return None


@contextmanager
def _locked() -> Iterator[None]:
    """Holds the lock. Raises RuntimeError if another program keeps it."""
    path = os.environ.get("XTABLES_LOCKFILE", LOCK)
    try:
        file = Path(path).open("a")  # noqa: SIM115 - the lock is this file's being open
    except OSError as error:
        raise RuntimeError(
            f"cannot open {path}, which all users of iptables lock: {error.strerror}"
        ) from error
    with file:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"{path} was locked for {_LOCK_SECONDS:g} s") from error
                time.sleep(0.02)
        yield


@cache
def _iptc() -> Any:
    """python-iptables, changed to leave tables that Galactic does not use alone.

    For the target of a jump it asks every table, which creates the table; ``nat`` brings connection tracking. For its
    libraries and their extensions it would start gcc, ld and ldconfig, a dozen processes: this reads folders instead.
    """
    for folder in _libraries("xtables"):
        os.environ.setdefault("XTABLES_LIBDIR", str(folder))
    find_library = ctypes.util.find_library
    ctypes.util.find_library = _library
    try:
        import iptc  # noqa: PLC0415
    finally:
        ctypes.util.find_library = find_library

    used = {(family, TABLES[chain]) for family, chain in PLACES}
    for kind, family in ((iptc.Table, 4), (iptc.Table6, 6)):
        for name in ("filter", "mangle", "nat", "raw", "security"):
            kind.existing_table_names[name] = (family, name) in used
    with suppress(iptc.XTablesError):  # rules with it will say so
        _mend_options(iptc, iptc.Match(iptc.Rule(), "rpfilter")._module.x6_options)  # noqa: SLF001
    return iptc


def _mend_options(iptc: Any, options: Any) -> None:
    """Where libxtables is of iptables 1.8.11, python-iptables 1.2 finds an extension's first option alone: a row of the
    table of options (struct xt_option_entry) has 8 bytes more there. ``options``: a table of several, whose first has
    no bounds.
    """
    row = ctypes.sizeof(iptc.xtables.xt_option_entry)
    if ctypes.c_void_p.from_address(ctypes.addressof(options.contents) + row).value:
        return
    row += 8

    def found(_: Any, rows: Any, name: bytes) -> Any:
        at = ctypes.addressof(rows.contents)
        while (entry := iptc.xtables.xt_option_entry.from_address(at)).name:
            if entry.name == name:
                return entry
            at += row
        return None

    iptc.xtables.xtables._option_lookup = found  # noqa: SLF001


def _library(name: str) -> str | None:
    """As ``ctypes.util.find_library``: the file name of a shared library, to be loaded by the dynamic linker."""
    libraries = sorted(_libraries(f"lib{name}.so.[0-9]*"), key=lambda path: len(path.name))
    return libraries[0].name if libraries else None


def _libraries(pattern: str) -> list[Path]:
    """Paths of libraries by that name."""
    return [folder / name for folder, names in _folders().items() for name in fnmatch.filter(names, pattern)]


@cache
def _folders() -> dict[Path, list[str]]:
    """The contents of the folders of libraries. Read once: thirty lookups follow, and each would take longer than the
    rest of importing python-iptables.
    """
    tops = list(Path("/usr").glob("lib*"))
    folders = [*tops, *(folder for top in tops for folder in top.iterdir())]
    return {folder: os.listdir(folder) for folder in folders if folder.is_dir()}  # noqa: PTH208 - names are wanted


def _wrong(place: Place, rules: Sequence[FirewallRule]) -> list[str]:
    """Differences of the kernel's chain from the rules. python-iptables reads neither flags nor masks."""
    try:
        chain = firewall_fingerprint.reader("legacy")(place)
        return readback.compared("legacy", place, chain, rules, harmless=harmless)
    except OSError as error:
        raise RuntimeError(f"IPv{place[0]} {place[1]} cannot be read back: {error.strerror}") from error


def _fill(table: Any, place: Place, rules: Sequence[Any], *, right: bool) -> bool:
    """Corrects the table in memory. Returns whether it changed. ``right``: the kernel's chain is correct."""
    iptc = _iptc()
    name = own(place[1])
    parent = iptc.Chain(table, place[1])
    present = iptc.Chain(table, name) if table.is_chain(name) else None
    jumps = [rule for rule in parent.rules if rule.target and rule.target.name == name]
    in_place = right and len(jumps) == 1
    if in_place if rules else (present is None and not jumps):
        return False
    for rule in jumps:
        parent.delete_rule(rule)
    if not rules:
        if present is not None:
            present.flush()
            table.delete_chain(name)
        return True
    present = present or table.create_chain(name)
    present.flush()
    for rule in rules:
        present.append_rule(rule)
    parent.insert_rule(_jump(table, name))
    return True


def _jump(table: Any, name: str) -> Any:
    made = _iptc().Rule6() if isinstance(table, _iptc().Table6) else _iptc().Rule()
    made.create_target(name)
    return made


def _rule(rule: FirewallRule) -> Any:
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
    if rule.not_icmp:
        made.protocol = f"!{socket.IPPROTO_ICMPV6 if rule.family == 6 else socket.IPPROTO_ICMP}"
    if rule.icmpv6 is not None:
        made.protocol = str(socket.IPPROTO_ICMPV6)
        made.create_match("icmp6").set_parameter("icmpv6_type", str(rule.icmpv6))
    if rule.family == 6 and rule.not_icmp:
        # python-iptables 1.2 clears the flag for an inverted protocol: the kernel then matches every protocol
        made.entry.ipv6.flags |= iptc.ip6tc.ip6t_ip6.IP6T_F_PROTO
    if rule.forged:
        made.create_match("devgroup").set_parameter("src_group", f"{HOST_ENDS:#x}")
        made.create_match("rpfilter").set_parameter("invert", "")
    _give_target(made, rule)
    return made


def _give_target(made: Any, rule: FirewallRule) -> None:
    if rule.target == "NOTRACK":
        made.create_target("CT").set_parameter("notrack", "")
    else:
        made.create_target(rule.target)
