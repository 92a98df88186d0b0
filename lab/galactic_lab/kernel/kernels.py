"""Chooses the kernel of a lab's nodes."""

from galactic_lab.kernel.joined import Joined
from galactic_lab.kernel.kernel import Kernel
from galactic_lab.kernel.nodeless import Nodeless
from galactic_lab.kernel.uml import Uml
from galactic_lab.state import State


def choose(state: State) -> Kernel:
    """The lab's own guest, that of the lab it joined, or none where it has no nodes."""
    if state.join:
        return Joined(state, choose(state.host))
    return Uml(state) if state.nodes else Nodeless(state)
