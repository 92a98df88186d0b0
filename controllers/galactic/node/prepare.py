"""galactic-node-prepare: makes a host ready for the node controller, and prints what is missing.

The privileged init container runs it, so that the long-running container needs neither a writable /proc/sys nor
modules. It has the node controller's settings, can be run any number of times, writes only sysctls that differ, and
exits with 0 if pods can be attached, else with 1.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Network
from typing import Final, NamedTuple, TextIO

from galactic.errors import GalacticError, NotYet
from galactic.linux import sysctl
from galactic.linux.namespace import Namespace
from galactic.linux.objects import LOOPBACK_DEVICE
from galactic.linux.preflight import preflight
from galactic.linux.underlay import Underlay
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
}
"""The kernel modules that are loaded, with their parameters."""
_ANY_BLOCK: Final = IPv6Network("2001:db8::/32")


class Row(NamedTuple):
    """One line of what is printed. ``state``: ``ok``, ``later`` (nothing to do about it here), or ``MISSING``."""

    name: str
    state: str
    message: str


def sysctls(underlay: Underlay | None) -> dict[str, str]:
    """Those of the plan that exist before any device of ours; devices made later inherit ``default``."""
    facts = plan.Host(_ANY_BLOCK, _ANY_BLOCK, underlay.device if underlay else "default")
    return {path: value for path, value in plan.host(facts).sysctls.items() if LOOPBACK_DEVICE not in path}


async def prepare(block: IPv6Network | None, device: str) -> list[Row]:
    """Loads modules, sets sysctls, and checks the kernel."""
    rows = [_modules()]
    underlay: Underlay | None = None
    try:
        underlay = await find_underlay(block, device=device)
        rows.append(Row("Underlay", "ok", f"{underlay.device}, MTU {underlay.mtu}"))
    except NotYet as error:
        rows.append(Row("Underlay", "later", f"{error}; the node controller waits for one"))
    except GalacticError as error:
        rows.append(Row("Underlay", "MISSING", str(error)))
    rows.append(_written(sysctls(underlay)))
    checked = await preflight()
    return rows + [
        Row(finding.name, "ok" if finding.ok else "MISSING" if finding.required else "later", finding.message)
        for finding in checked.findings
    ]


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


def show(rows: list[Row], to: TextIO) -> bool:
    """Prints the table and a summary; whether pods can be attached."""
    width = max(len(row.name) for row in rows)
    to.writelines(f"{row.name:{width}}  {row.state:7}  {row.message}\n" for row in rows)
    missing = [row.name for row in rows if row.state == "MISSING"]
    to.write(f"this host is not ready: {', '.join(missing)}\n" if missing else "this host is ready\n")
    return not missing


def main() -> None:
    """The console script."""
    settings = load(NodeSettings, program=PROGRAM)
    rows = asyncio.run(prepare(settings.srv6_block, settings.underlay_interface))
    sys.exit(0 if show(rows, sys.stdout) else 1)


if __name__ == "__main__":
    main()
