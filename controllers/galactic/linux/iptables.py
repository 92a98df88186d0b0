"""The process that installs firewall rules: ``python -m galactic.linux.iptables``.

Reads ``{"backend": "legacy"|"nft"|"", "rules": […]}`` from standard input and writes ``firewall.Installed``;
on failure it exits 1 with one line on standard error. Legacy tables go through python-iptables, others through
iptables-nft, whose rules python-iptables cannot see.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Final

from galactic.linux import firewall_fingerprint, legacy, nft, readback
from galactic.linux.firewall import PLACES, Backend, FirewallRule, Installed, Place
from galactic.linux.nft import COMMANDS, run
from galactic.linux.precedence import harmless

_ATTEMPTS: Final = 5
MODULES: Final = {"forged": "xt_devgroup, ipt_rpfilter and ip6t_rpfilter", "tracked": "xt_CT"}
"""Rules that are left out where the kernel lacks the modules for them, by ``_optional``."""

Work = Callable[[Place, Sequence[FirewallRule]], bool]
WORKS: Final[dict[Backend, Work]] = {"legacy": legacy.install, "nft": nft.install}


def main() -> None:
    """Handles the request on standard input."""
    try:
        order = json.load(sys.stdin)
        rules = [FirewallRule(**rule) for rule in order["rules"]]
        backend, reason = (order["backend"], "as asked for") if order["backend"] else detected()
        result = installed(backend, reason, rules)
        if not order["backend"]:
            moved = _moved_from("nft" if backend == "legacy" else "legacy")
            result = replace(result, changed=(*result.changed, *moved))
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line for the parent process
        sys.exit(f"{type(error).__name__}: {error}")
    json.dump(asdict(result), sys.stdout)


def installed(backend: Backend, reason: str, rules: Sequence[FirewallRule]) -> Installed:
    """Installs the rules. The fingerprint is of the chains when they were correct, not of later changes by other
    programs.
    """
    lacking: dict[str, str] = {}
    changed: list[str] = []
    for _ in range(_ATTEMPTS):
        before = _fingerprint(backend)
        try:
            made = _all(WORKS[backend], rules)
        except RuntimeError as error:
            if lacking:
                raise
            made, rules, lacking = _without_optional(WORKS[backend], rules, error)
        changed += made
        if not made and (before or not rules) and _fingerprint(backend) == before:
            try:
                wrong = readback.differences(backend, rules, harmless=harmless)
            except InterruptedError:  # others change the same tables
                continue
            if wrong:
                raise RuntimeError(f"{backend} tables do not have what was written: {'; '.join(wrong)}")
            return Installed(
                backend,
                reason,
                tuple(dict.fromkeys(changed)),
                lacking.get("forged", ""),
                before or "",
                lacking.get("tracked", ""),
            )
    raise RuntimeError(
        f"another program changes the GALACTIC chains in {backend} tables as fast as they are corrected"
    )


def _fingerprint(backend: Backend) -> str | None:
    return firewall_fingerprint.fingerprint(backend, harmless=harmless)


def _without_optional(
    work: Work, rules: Sequence[FirewallRule], error: RuntimeError
) -> tuple[list[str], Sequence[FirewallRule], dict[str, str]]:
    """Installs the rules without those that the kernel lacks modules for: as few as possible. The chains changed, the
    rules installed, and what is lacking by the keys of ``MODULES``. Raises ``error`` if that was not it.
    """
    for left_out in (("forged",), ("tracked",), ("forged", "tracked")):
        remaining = [rule for rule in rules if _optional(rule) not in left_out]
        if len(remaining) == len(rules):
            continue
        try:
            made = _all(work, remaining)
        except RuntimeError:
            continue
        lacking = {
            key: f"the kernel, or its iptables, lacks {MODULES[key]} ({error})"
            for key in left_out
            if any(_optional(rule) == key for rule in rules)
        }
        return made, remaining, lacking
    raise error


def _optional(rule: FirewallRule) -> str:
    """The key in ``MODULES`` of what the rule needs; else ""."""
    return "forged" if rule.forged else "tracked" if rule.target == "NOTRACK" else ""


def _all(work: Work, rules: Sequence[FirewallRule]) -> list[str]:
    return [
        f"IPv{family} {chain}"
        for family, chain in PLACES
        if work((family, chain), [rule for rule in rules if (rule.family, rule.chain) == (family, chain)])
    ]


def _moved_from(other: Backend) -> list[str]:
    """Removes Galactic's chains from the unused backend, without making the kernel load it."""
    if other == "nft":
        present = any(nft.chain(place) is not None for place in PLACES)
    else:
        present = firewall_fingerprint.fingerprint("legacy", only=legacy.in_use()) is not None
    return [f"{name} in {other} tables" for name in _all(WORKS[other], ())] if present else []


def detected() -> tuple[Backend, str]:
    """The backend to use, and why: the one with more rules of other programs, as both backends' rules apply to every
    packet, and an ACCEPT in one does not undo a DROP in the other. Else the one with Galactic's chains; else legacy.
    """
    foreign: dict[Backend, int] = {"legacy": 0, "nft": 0}
    own: dict[Backend, int] = {"legacy": 0, "nft": 0}
    existing = legacy.in_use()
    for family in (4, 6):
        if (family, "filter") in existing:  # listing a legacy table creates it
            _count(COMMANDS[family].replace("nft", "legacy"), "legacy", foreign, own)
        _count(COMMANDS[family], "nft", foreign, own)
    for count, whose in (
        (foreign, "rules and policies of other programs"),
        (own, "rules of Galactic and no others"),
    ):
        if any(count.values()):
            chosen: Backend = "nft" if count["nft"] > count["legacy"] else "legacy"
            return chosen, f"{count['legacy']} {whose} in legacy tables, {count['nft']} in nft"
    if (problem := legacy.missing()) is not None:
        return "nft", f"no legacy tables: {problem}"
    return "legacy", "no rules yet, and the kernel has legacy tables"


def _count(command: str, backend: Backend, foreign: dict[Backend, int], own: dict[Backend, int]) -> None:
    """How many lines of the filter table differ from an untouched one; 0 if it is unreadable."""
    try:
        lines = run(command, "-w", nft.WAIT_SECONDS, "-S").splitlines()
    except (OSError, RuntimeError):
        return
    for line in lines:
        if not (line.startswith("-P") and line.endswith("ACCEPT")):
            (own if "GALACTIC-" in line else foreign)[backend] += 1


if __name__ == "__main__":
    main()
