"""Which kernel a lab uses: the machine's own where it can do SRv6 VPNs, else a guest."""

from galactic.errors import Rejected
from galactic.lab.host import Host
from galactic.lab.joined import Joined
from galactic.lab.kernel import Kernel, lacking
from galactic.lab.state import State
from galactic.lab.uml import Uml


def choose(state: State) -> Kernel:
    """The kernel of this lab. ``state.kernel`` says which one, or leaves it to what the machine can do.

    A lab without nodes asks nothing of its kernel.
    """
    if state.join:
        return Joined(state, choose(state.host))
    if not state.nodes:
        return Host(state)
    if state.kernel == "uml" or (state.kernel == "" and lacking()):
        return Uml(state)
    if state.kernel in ("", "host"):
        return Host(state)
    raise Rejected(f"{state.kernel!r} is neither host nor uml", field="kernel")
