"""Leadership of one router as a value: its phases, what happens to it, and what follows (docs/design/router-leader.md).

    STANDBY ── elected, and rested ──► CLAIMING ── the broker retains the claim ──► ADOPTING ── adopted ──► LEADING
       ▲                                  │                                            │                       │
       └── another claim is higher, another router is elected, or the claim has to be raised ──────────────────┘

A claim is the retained ``router/leader``. The router publishes it first, and reads everything that the broker retains
after that: so the router reads what an earlier leader published before, and receives what it publishes later. Of two
claims the one with the higher term counts, of equal terms that of the higher name. Pure: the clock is in the events,
and ``Leadership`` carries out the actions, in order.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from galactic.messages import Leader

RAISE_SECONDS: Final = 600.0
"""The shortest time between two claims above the database's term. Two control planes that share a database by mistake
would otherwise raise their terms above each other for ever."""


class Phase(Enum):
    """Where a router is on its way to lead."""

    STANDBY = "standby"
    CLAIMING = "claiming"
    ADOPTING = "adopting"
    LEADING = "leading"


class Cause(Enum):
    """Why a router stands down, as the log has it."""

    DEPOSED = "deposed by another router"
    NOT_ELECTED = "another router was elected"
    RAISED = "claiming again above the database's term"


@dataclass(frozen=True, slots=True)
class State:
    """``replica`` is the router's name, which its claims carry."""

    replica: str
    phase: Phase = Phase.STANDBY
    claim: Leader | None = None
    """The router's own; None while it stands by."""
    confirmed: bool = False
    """Whether the broker confirmed the claim since it was published last."""
    elected: bool = False
    """Whether the election allows a claim."""
    rested: bool = True
    """Whether the pause since the last claim is over."""
    broker_read: bool = False
    """Whether what the broker retains was read in this session."""
    highest_term: int = 0
    """Of all that were seen, at the broker and in the database."""
    raising: bool = False
    """Whether the broker is read to decide if the claim has to be raised."""
    raised_at: float = -RAISE_SECONDS
    owner: str = ""
    """The cluster whose routers elect; empty: standalone, or unknown."""
    other: Leader | None = None
    """Another router's claim, as the broker has it, if it names its cluster."""

    @property
    def rival(self) -> Leader | None:
        """The claim of another cluster's router, if there is one: this one claims nothing meanwhile."""
        other = self.other
        return other if other and other.owner and self.owner and other.owner != self.owner else None

    @property
    def term(self) -> int:
        """The term in which this router leads, or is about to; 0: it does not."""
        return self.claim.term if self.claim and self.phase in {Phase.ADOPTING, Phase.LEADING} else 0


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Elected:
    """The election allows a claim. ``now``: the wall clock in ms, below which no term is claimed. ``owner``: the
    cluster.
    """

    now: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class NotElected:
    """The election chose another router."""


@dataclass(frozen=True, slots=True)
class Rested:
    """The pause after standing down is over. ``now`` as in ``Elected``."""

    now: int


@dataclass(frozen=True, slots=True)
class SessionBegan:
    """The broker accepted a connection."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The connection to the broker broke."""


@dataclass(frozen=True, slots=True)
class ClaimConfirmed:
    """The broker confirmed (PUBACK) this claim of ours."""

    claim: Leader


@dataclass(frozen=True, slots=True)
class BrokerRead:
    """All retained messages were read, with this claim; None: there is no valid one."""

    leader: Leader | None


@dataclass(frozen=True, slots=True)
class LeaderPublished:
    """Some router published ``router/leader``, maybe this one. None: cleared, or invalid."""

    leader: Leader | None


@dataclass(frozen=True, slots=True)
class TablesAdopted:
    """The tables in force are taken over, in the term of this claim."""

    claim: Leader


@dataclass(frozen=True, slots=True)
class TermKnown:
    """Some router had this term, though the broker may have lost it."""

    term: int


@dataclass(frozen=True, slots=True)
class DatabaseAhead:
    """The database refuses this router because it has seen this term. ``at``: a monotonic clock in seconds."""

    term: int
    at: float


Event = (
    Elected
    | NotElected
    | Rested
    | SessionBegan
    | SessionEnded
    | ClaimConfirmed
    | BrokerRead
    | LeaderPublished
    | TablesAdopted
    | TermKnown
    | DatabaseAhead
)

# -- actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishClaim:
    """Publish this claim; ``ClaimConfirmed`` follows."""

    claim: Leader


@dataclass(frozen=True, slots=True)
class ReadBroker:
    """Read what the broker retains; ``BrokerRead`` follows, or ``SessionEnded``."""


@dataclass(frozen=True, slots=True)
class AdoptTables:
    """Take over the tables that were just read; ``TablesAdopted`` follows."""

    claim: Leader


@dataclass(frozen=True, slots=True)
class OpenGate:
    """From now on everything may be published."""


@dataclass(frozen=True, slots=True)
class CloseGate:
    """From now on nothing but claims may be published."""


@dataclass(frozen=True, slots=True)
class StandDown:
    """End all work of this claim, then pause; ``Rested`` follows. ``leader``: whose claim is higher."""

    claim: Leader
    cause: Cause
    leader: Leader | None = None


@dataclass(frozen=True, slots=True)
class AskElectionAgain:
    """The election's last answer counts no more."""


@dataclass(frozen=True, slots=True)
class ReportRival:
    """Another cluster's router leads at this broker; None: no longer."""

    rival: Leader | None


Action = (
    PublishClaim
    | ReadBroker
    | AdoptTables
    | OpenGate
    | CloseGate
    | StandDown
    | AskElectionAgain
    | ReportRival
)
Result = tuple[State, tuple[Action, ...]]

# -- transitions -------------------------------------------------------------------------------------------------------


def transition(state: State, event: Event) -> Result:
    """The next state, and what has to be done to get there."""
    after, actions = _transition(state, event)
    if (after.rival is None) != (state.rival is None):
        actions = (*actions, ReportRival(after.rival))
    return after, actions


def _transition(state: State, event: Event) -> Result:  # noqa: C901, PLR0911, PLR0912 - a case for each event
    match event:
        case Elected(now, owner):
            return _claim(replace(state, elected=True, owner=owner), now)
        case Rested(now):
            return _claim(replace(state, rested=True), now)
        case NotElected():
            return _stand_down(replace(state, elected=False), Cause.NOT_ELECTED)
        case SessionBegan():
            return replace(state, broker_read=False), (CloseGate(), ReadBroker())
        case SessionEnded():
            return replace(state, broker_read=False), (CloseGate(),)
        case ClaimConfirmed(claim):
            if state.phase is Phase.CLAIMING and claim == state.claim:
                return replace(state, confirmed=True), (ReadBroker(),)
            return state, ()
        case BrokerRead(leader):
            return _broker_read(replace(_seen(state, leader), broker_read=True), leader)
        case LeaderPublished(leader):
            return _leader_published(_seen(state, leader), leader)
        case TablesAdopted(claim):
            if state.phase is not Phase.ADOPTING or claim != state.claim:
                return state, ()
            return replace(state, phase=Phase.LEADING), (OpenGate(),) if state.broker_read else ()
        case TermKnown(term):
            return replace(state, highest_term=max(state.highest_term, term)), ()
        case DatabaseAhead(term, at):
            return _database_ahead(replace(state, highest_term=max(state.highest_term, term)), term, at)


def _claim(state: State, now: int) -> Result:
    """Claims, if nothing speaks against it: a term above all that were seen, and not below the clock.

    A claim replaces another cluster's at the broker, so with a cluster the broker is read first.
    """
    unread = bool(state.owner) and not state.broker_read
    if state.phase is not Phase.STANDBY or not state.elected or not state.rested or unread or state.rival:
        return state, ()
    claim = Leader(state.replica, max(state.highest_term + 1, now), state.owner)
    return replace(state, phase=Phase.CLAIMING, claim=claim, confirmed=False), (PublishClaim(claim),)


def _stand_down(state: State, cause: Cause, leader: Leader | None = None) -> Result:
    if state.claim is None:
        return state, ()
    standby = replace(state, phase=Phase.STANDBY, claim=None, confirmed=False, rested=False, raising=False)
    return standby, (CloseGate(), StandDown(state.claim, cause, leader))


def _depose(state: State, leader: Leader) -> Result:
    """The election has to be asked again: it may have chosen the other router meanwhile."""
    standby, actions = _stand_down(replace(state, elected=False), Cause.DEPOSED, leader)
    return standby, (*actions, AskElectionAgain())


def _broker_read(state: State, leader: Leader | None) -> Result:
    if leader is not None and _outdone(state, leader):
        return _depose(state, leader)
    claim = state.claim
    if claim is None or (state.phase is Phase.CLAIMING and not state.confirmed):
        return state, ()
    if state.phase is Phase.CLAIMING:
        if leader == claim:
            return replace(state, phase=Phase.ADOPTING), (AdoptTables(claim),)
        # The broker was replaced between the claim and this: it has lost the claim.
        return replace(state, confirmed=False), (PublishClaim(claim),)
    if state.raising and leader == claim:
        return _stand_down(state, Cause.RAISED)
    again = () if leader == claim else (PublishClaim(claim),)
    gate = (OpenGate(),) if state.phase is Phase.LEADING else ()
    return replace(state, raising=False), (*again, *gate)


def _leader_published(state: State, leader: Leader | None) -> Result:
    if leader is not None and _outdone(state, leader):
        return _depose(state, leader)
    if state.claim is not None and state.phase is not Phase.CLAIMING and leader != state.claim:
        return state, (PublishClaim(state.claim),)
    return state, ()


def _database_ahead(state: State, term: int, at: float) -> Result:
    """Another router leads, and the broker is about to deliver its claim; or the broker has lost that claim.

    So the broker is read once more; where no claim is higher, this router stands down and claims above the term.
    """
    if not 0 < state.term <= term or at - state.raised_at < RAISE_SECONDS:
        return state, ()
    return replace(state, raising=True, raised_at=at), (ReadBroker(),)


def _seen(state: State, leader: Leader | None) -> State:
    if leader is None:
        return replace(state, other=None)
    other = leader if leader.owner and leader.id != state.replica else None
    return replace(state, highest_term=max(state.highest_term, leader.term), other=other)


def _outdone(state: State, leader: Leader) -> bool:
    own = state.claim
    return own is not None and leader != own and (leader.term, leader.id) > (own.term, own.id)
