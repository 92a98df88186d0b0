"""Tables of nftables of Galactic's own: values, the transaction between two of them, and the program ``nft``.

A ``Table`` is the desired state of a table. ``difference`` is the script from one to another: a single transaction of
the kernel, so that no packet meets half of it. Its cost follows the difference. Sets without ``elements`` are filled by
rules, as packets pass; no transaction touches their elements.

pyroute2 encodes no verdict maps, no concatenations with intervals and no expressions that rules update sets by. The
program ``nft`` does all of that, and is in every distribution; its output has no promise, its input has. So a rule is
never compared with the kernel's: a written table is remembered as a fingerprint of the kernel's own listing.

Each ``nft`` reads all tables before it writes one. Version 1.0.6 crashes at sets and verdict maps that 1.1 has written,
as kube-proxy may have done. So the older version writes, and the nft of no other program crashes at Galactic's tables.
The newer one takes over on nodes where the older one crashes: programs with an older one crash there already.
"""

import asyncio
import hashlib
import json
import shutil
import signal
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from galactic.errors import Unreachable

log = structlog.get_logger(__name__)
PROGRAM: Final = "nft"
NEWER: Final = "nft-newer"
"""The second version that Galactic's image has, for tables that the first cannot read."""
TIMEOUT_SECONDS: Final = 60.0
_NETLINK_NETFILTER: Final = 12
_NFNL_SUBSYS_NFTABLES: Final = 10
_NFT_MSG_GETGEN: Final = 16
_NFTA_GEN_ID: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_NLMSG_ERROR: Final = 2


@dataclass(frozen=True, slots=True)
class Chain:
    """``base``: type, hook and priority, e.g. ``type filter hook forward priority -10``; empty for any other chain."""

    rules: tuple[str, ...]
    base: str = ""


@dataclass(frozen=True, slots=True)
class Set:
    """A set or map. ``declaration``: as between the braces, each part ended by a semicolon. ``elements``: element →
    value, empty in a set; None where rules fill it.
    """

    kind: str  # set or map
    declaration: str
    elements: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """``family`` and name, e.g. ``inet galactic-policy``. Without chains and sets it does not exist."""

    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, Set] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Present:
    """The names that the kernel's table has: chains, and sets with their kind. ``exists``: whether there is a table."""

    exists: bool = False
    chains: frozenset[str] = frozenset()
    sets: Mapping[str, str] = field(default_factory=dict)


def difference(before: Table, after: Table) -> str:
    """The script from one to the other; empty where they are equal."""
    present = Present(
        bool(before.chains or before.sets),
        frozenset(before.chains),
        {name: one.kind for name, one in before.sets.items()},
    )
    return "".join(f"{line}\n" for line in _lines(present, before, after))


def rewrite(present: Present, after: Table) -> str:
    """The script that makes the table so, whatever its chains and maps have. Sets that rules fill keep their elements,
    because a set of that name has the same declaration.
    """
    return "".join(f"{line}\n" for line in _lines(present, Table(after.name), after))


def _lines(present: Present, before: Table, after: Table) -> Iterator[str]:
    """Nft resolves an element's chain only where that chain is named earlier in the script than the element's map."""
    table = after.name
    if not after.chains and not after.sets:
        if present.exists:
            yield f"delete table {table}"
        return
    if not present.exists:
        yield f"add table {table}"
    for name, chain in after.chains.items():
        if name not in present.chains:
            base = f" {{ {chain.base}; policy accept; }}" if chain.base else ""
            yield f"add chain {table} {name}{base}"
    for name, one in after.sets.items():
        if name not in present.sets:
            yield f"add {one.kind} {table} {name} {{ {one.declaration} }}"
    yield from _rules(present, before, after)
    yield from _elements(present, before, after)
    for name in sorted(present.chains - after.chains.keys()):
        yield f"delete chain {table} {name}"
    for name in sorted(present.sets.keys() - after.sets.keys()):
        yield f"delete {present.sets[name]} {table} {name}"


def _rules(present: Present, before: Table, after: Table) -> Iterator[str]:
    """Chains are emptied before any is filled: an obsolete one may lead to another."""
    changed = [name for name, chain in after.chains.items() if before.chains.get(name) != chain]
    gone = sorted(present.chains - after.chains.keys())
    for name in (*(name for name in changed if name in present.chains), *gone):
        yield f"flush chain {after.name} {name}"
    for name in changed:
        for rule in after.chains[name].rules:
            yield f"add rule {after.name} {name} {rule}"


def _elements(present: Present, before: Table, after: Table) -> Iterator[str]:
    table = after.name
    for name in sorted(present.sets.keys() - after.sets.keys()):
        if present.sets[name] == "map":
            yield f"flush map {table} {name}"
    for name, one in after.sets.items():
        if one.elements is None:
            continue
        known = before.sets.get(name)
        old = known.elements if known is not None and known.elements is not None else {}
        if known is None and name in present.sets:
            yield f"flush {one.kind} {table} {name}"
        surplus = [key for key, value in old.items() if one.elements.get(key) != value]
        missing = [(key, value) for key, value in one.elements.items() if old.get(key) != value]
        if surplus:
            yield f"delete element {table} {name} {{ {', '.join(surplus)} }}"
        if missing:
            texts = (f"{key} : {value}" if value else key for key, value in missing)
            yield f"add element {table} {name} {{ {', '.join(texts)} }}"


class Nftables:
    """The kernel's tables, in the network namespace of this process."""

    def __init__(self) -> None:
        self.followed = False
        """Whether each transaction that names a table is reported to its keeper."""

    async def apply(self, script: str) -> None:
        """One transaction. Raises Unreachable where the kernel or ``nft`` refuses; nothing has changed then."""
        if script:
            await _run(script)

    async def present(self, table: str) -> Present:
        """The names in the kernel's table. Raises Unreachable."""
        listed = await self.listed(table)
        chains = (entry["chain"]["name"] for entry in listed if "chain" in entry)
        sets = {entry[kind]["name"]: kind for entry in listed for kind in ("set", "map") if kind in entry}
        return Present(bool(listed), frozenset(chains), sets)

    async def listed(self, table: str, filled: Iterable[tuple[str, str]] = ()) -> list[dict[str, Any]]:
        """The table as ``nft -j -t`` lists it, then the elements of those sets and maps (kind and name); empty without
        such a table.
        """
        family, _, name = table.partition(" ")
        tables = json.loads(await _run("", "-j", "list tables"))["nftables"]
        if {"family": family, "name": name} not in [
            {key: entry["table"][key] for key in ("family", "name")} for entry in tables if "table" in entry
        ]:
            return []
        listed = json.loads(await _run("", "-j", "-t", f"list table {table}"))["nftables"]
        entries = [entry for entry in listed if "metainfo" not in entry]
        for kind, one in filled:
            alone = json.loads(await _run("", "-j", f"list {kind} {table} {one}"))["nftables"]
            entries += [entry for entry in alone if kind in entry]
        return entries

    async def counted(self, table: str, name: str) -> dict[str, int]:
        """The elements of a set of device names that rules fill, and the packets that each has counted. Raises
        Unreachable.
        """
        listed = json.loads(await _run("", "-j", f"list set {table} {name}"))["nftables"]
        elements = (one["elem"] for entry in listed if "set" in entry for one in entry["set"].get("elem", ()))
        return {element["val"]: element.get("counter", {}).get("packets", 0) for element in elements}

    async def fingerprint(self, table: Table) -> str:
        """Of the kernel's table without handles, counters and the elements of sets that rules fill."""
        filled = [(one.kind, name) for name, one in table.sets.items() if one.elements is not None]
        entries = _plain(await self.listed(table.name, filled))
        text = sorted(json.dumps(entry, sort_keys=True) for entry in entries)
        return hashlib.blake2b("\n".join(text).encode(), digest_size=16).hexdigest()

    def generation(self) -> int:
        """A number that the kernel raises with every transaction of any program. Raises Unreachable."""
        message = struct.pack("=BBH", 0, 0, 0)
        kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN
        request = _HEADER.pack(_HEADER.size + len(message), kind, 1, 1, 0) + message
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
                netlink.settimeout(TIMEOUT_SECONDS)
                netlink.bind((0, 0))
                netlink.send(request)
                answer = netlink.recv(65536)
        except OSError as error:
            raise Unreachable("nf_tables", error.strerror or str(error)) from error
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR:
            raise Unreachable("nf_tables", "the kernel has no nf_tables")
        length, attribute = struct.unpack_from("=HH", answer, _HEADER.size + 4)
        if attribute != _NFTA_GEN_ID or length != 8:
            raise Unreachable("nf_tables", "the kernel's answer is not a generation")
        return int.from_bytes(answer[_HEADER.size + 8 : _HEADER.size + 12], "big")


async def lacking() -> str:
    """The lack of this host for tables of our own, in words; "" for none. Changes nothing."""
    if shutil.which(_chosen.name) is None:
        return f"there is no program {PROGRAM}; install the package nftables"
    try:
        await _run(_TRIAL, "-c")
    except Unreachable as error:
        return f"the kernel has no nf_tables with maps and sets that rules fill ({error})"
    return ""


_TRIAL: Final = """add table inet galactic-trial
add chain inet galactic-trial last
add map inet galactic-trial blocks { type ipv6_addr : verdict; flags interval; }
add set inet galactic-trial flows { type inet_proto . ipv4_addr . inet_service; flags dynamic,timeout; size 16; }
add chain inet galactic-trial first { type filter hook forward priority -10; policy accept; }
add rule inet galactic-trial first ip6 saddr vmap @blocks
add rule inet galactic-trial first meta l4proto tcp update @flows { meta l4proto . ip saddr . th dport timeout 1m }
add element inet galactic-trial blocks { 2001:db8::-2001:db8::9 : goto last }
"""
"""Checked (``nft -c``), never committed."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "counter" in value:
            return "counter"
        return {key: _plain(item) for key, item in value.items() if key not in ("handle", "index")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@dataclass
class _Chosen:
    """The program in use, for the life of this process."""

    name: str = PROGRAM


_chosen = _Chosen()


_CRASHES: Final = (signal.SIGSEGV, signal.SIGABRT)


async def _run(script: str, *arguments: str) -> str:
    """The output. An empty script: the command is among the arguments, because with -j a script would be JSON."""
    code, output, complaint = await _execute(_chosen.name, script, *arguments)
    if -code in _CRASHES and _chosen.name != NEWER and shutil.which(NEWER):
        log.warning("nft crashed, as it does at tables of a newer one; using another version", program=NEWER)
        _chosen.name = NEWER
        code, output, complaint = await _execute(_chosen.name, script, *arguments)
    if code < 0:
        reason = f"it ended by {signal.Signals(-code).name}"
        if -code in _CRASHES:
            reason += (
                ": mostly, another program has written tables with a newer version of nft, which this one cannot "
                "read; update nftables"
            )
        raise Unreachable(_chosen.name, reason)
    if code > 0:
        lines = complaint.strip().splitlines() or [f"exit code {code}"]
        raise Unreachable(_chosen.name, lines[0])
    return output


async def _execute(program: str, script: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code (negative: the signal), output and complaint. Raises Unreachable where it cannot run."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            *(("-f", "-") if script else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Unreachable(program, error.strerror or str(error)) from error
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, complaint = await process.communicate(script.encode())
    except TimeoutError as error:
        raise Unreachable(program, f"no answer within {TIMEOUT_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(), complaint.decode(errors="replace")
