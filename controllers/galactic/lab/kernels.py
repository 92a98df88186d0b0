"""Which kernel the nodes of a lab run on."""

from galactic.lab.joined import Joined
from galactic.lab.kernel import Kernel
from galactic.lab.nodeless import Nodeless
from galactic.lab.state import State
from galactic.lab.uml import Uml


def choose(state: State) -> Kernel:
    """The lab's own guest, that of the lab it joined, or none where it has no nodes."""
    if state.join:
        return Joined(state, choose(state.host))
    return Uml(state) if state.nodes else Nodeless(state)
