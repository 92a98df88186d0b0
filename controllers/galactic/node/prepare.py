"""galactic-node-prepare: makes a host ready for the node controller, and prints what is missing.

The privileged init container runs it, so that the long-running container needs neither a writable /proc/sys nor
modules. It has the node controller's settings, can be run any number of times, writes only sysctls that differ, and
exits with 0 if pods can be attached, else with 1.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from galactic.errors import GalacticError, NotYet
from galactic.linux import sysctl
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import LOOPBACK_DEVICE
from galactic.linux.preflight import preflight
from galactic.linux.underlay import Underlay
from galactic.linux.underlay import advertised as find_advertised
from galactic.linux.underlay import underlay as find_underlay
from galactic.node.dataplane import plan
from galactic.settings import NodeSettings, load

PROGRAM: Final = "galactic-node-prepare"
MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "vrf": (),
    "dummy": ("numdummies=0",),  # or the module makes dummy0 when it is loaded; one that is there stays
    "veth": (),
    "xt_devgroup": (),
    "ipt_rpfilter": (),
    "ip6t_rpfilter": (),
    "nf_tables": (),
}
"""The kernel modules that are loaded, with their parameters."""
BEFORE: Final = "sysctls.before"
"""The file with the values of sysctls from before the installation, in the form of sysctl.conf(5)."""
_WIDTH: Final = len("ReducedEncapsulation")
_ANY_BLOCK: Final = IPv6Network("2001:db8::/32")


class Row(NamedTuple):
    """One line of what is printed. ``state``: ``ok``, ``later`` (nothing to do about it here), or ``MISSING``."""

    name: str
    state: str
    message: str


def sysctls(underlay: str, advertised: Sequence[str] = ()) -> dict[str, str]:
    """Those of the plan that exist before any device of ours; devices made later inherit ``default``.

    ``underlay``: its interface, "" while there is none; ``advertised``: see ``Underlay``.
    """
    facts = plan.Host(_ANY_BLOCK, _ANY_BLOCK, underlay or "default", advertised=tuple(advertised))
    return {path: value for path, value in plan.host(facts).sysctls.items() if LOOPBACK_DEVICE not in path}


async def prepare(block: IPv6Network | None, device: str, state: Path) -> AsyncIterator[Row]:
    """Loads modules, sets sysctls, and checks the kernel. What it will change comes before it is changed.

    ``state``: the folder for ``BEFORE``.
    """
    yield _modules()
    underlay: Underlay | None = None
    try:
        underlay = await find_underlay(block, device=device)
        yield Row("Underlay", "ok", f"{underlay.device}, MTU {underlay.mtu}")
    except NotYet as error:
        yield Row("Underlay", "later", f"{error}; the node controller waits for one")
    except GalacticError as error:
        yield Row("Underlay", "MISSING", str(error))
    advertised = underlay.advertised if underlay else await find_advertised()
    if advertised:
        message = f"{', '.join(advertised)}: routes or addresses come from router advertisements, which stay accepted"
        yield Row("Advertisements", "ok", message)
    yield await _rules(block or _ANY_BLOCK)
    wanted = sysctls(underlay.device if underlay else "", advertised)
    if present := _differing(wanted):
        changes = (f"{_name(path)} {value} → {wanted[path]}" for path, value in present.items())
        yield Row("Changes", "ok", ", ".join(changes))
        yield _recorded(present, state / BEFORE)
    yield _written(wanted)
    for finding in (await preflight()).findings:
        result = "ok" if finding.ok else "MISSING" if finding.required else "later"
        yield Row(finding.name, result, finding.message)


def _name(path: str) -> str:
    """The sysctl as sysctl(8) takes it: with dots, and with slashes where an interface's name has a dot."""
    return path if "." in path else path.replace("/", ".")


def _differing(wanted: Mapping[str, str]) -> dict[str, str]:
    """The present values of the sysctls that will change."""
    present = sysctl.values(Namespace.own(), wanted)
    return {path: present[path] for path, value in wanted.items() if present.get(path, value) != value}


def _recorded(present: Mapping[str, str], file: Path) -> Row:
    """Adds the values to the file, for `sysctl -p`. One that it has is from before an earlier change, and stays."""
    try:
        lines = file.read_text().splitlines() if file.exists() else []
        known = {line.partition(" = ")[0] for line in lines}
        lines += [f"{_name(path)} = {value}" for path, value in present.items() if _name(path) not in known]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    except OSError as error:
        return Row("Record", "later", f"{file} cannot be written ({error.strerror}): note the row above")
    return Row("Record", "ok", f"{file} has the values from before: sysctl -p sets them back")


def _modules() -> Row:
    """The kernel loads most of them on demand, but not all on behalf of a container."""
    if not shutil.which("modprobe"):
        return Row("Modules", "later", "no modprobe here: the kernel loads them itself, or has them built in")
    refused = [name for name, parameters in MODULES.items() if not _loaded(name, parameters)]
    if refused:
        return Row("Modules", "later", f"not loaded: {', '.join(refused)}; fine if they are built in")
    return Row("Modules", "ok", ", ".join(MODULES))


def _loaded(name: str, parameters: Sequence[str]) -> bool:
    argv = ["modprobe", "--quiet", name, *parameters]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


async def _rules(block: IPv6Network) -> Row:
    """The changes of policy rules that the node controller will make. None is made here."""
    try:
        async with LinuxKernel() as kernel:
            commands = await kernel.pending_lookups(plan.lookups(block))
    except GalacticError as error:
        return Row("Rules", "later", f"not read: {error}")
    if not commands:
        return Row("Rules", "ok", "packets of VRFs are looked up in their tables before the table local")
    return Row("Rules", "later", f"the node controller will do: {'; '.join(commands)}")


def _written(wanted: Mapping[str, str]) -> Row:
    refused = sysctl.write(Namespace.own(), wanted)
    if not refused:
        return Row("Settings", "ok", f"{len(wanted)} sysctls are as they should be")
    path, error = next(iter(refused.items()))
    name = path.replace("/", ".")
    if isinstance(error, FileNotFoundError):
        message = f"there is no sysctl {name}: the kernel lacks what it belongs to"
    else:
        message = (
            f"sysctl {name} cannot be set ({error.strerror}): run this privileged, on the host's network"
        )
    return Row(
        "Settings", "MISSING", message + (f"; and {len(refused) - 1} more" if len(refused) > 1 else "")
    )


async def show(rows: AsyncIterator[Row], to: TextIO) -> bool:
    """Prints each row as it comes, and a summary; whether pods can be attached."""
    missing = []
    async for row in rows:
        to.write(f"{row.name:{_WIDTH}}  {row.state:7}  {row.message}\n")
        to.flush()
        missing += [row.name] if row.state == "MISSING" else []
    to.write(f"this host is not ready: {', '.join(missing)}\n" if missing else "this host is ready\n")
    return not missing


def main() -> None:
    """The console script."""
    settings = load(NodeSettings, program=PROGRAM)
    rows = prepare(settings.srv6_block, settings.underlay_interface, settings.socket.parent)
    sys.exit(0 if asyncio.run(show(rows, sys.stdout)) else 1)


if __name__ == "__main__":
    main()
