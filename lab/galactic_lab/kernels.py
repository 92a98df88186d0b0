"""Which kernel the nodes of a lab run on."""

from galactic_lab.joined import Joined
from galactic_lab.kernel import Kernel
from galactic_lab.nodeless import Nodeless
from galactic_lab.state import State
from galactic_lab.uml import Uml


def choose(state: State) -> Kernel:
    """The lab's own guest, that of the lab it joined, or none where it has no nodes."""
    if state.join:
        return Joined(state, choose(state.host))
    return Uml(state) if state.nodes else Nodeless(state)
