"""Leadership as a table: from each phase, what an event leads to and what has to be done."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.messages import Leader, gone
from galactic.router.leader.state_machine import (
    RAISE_SECONDS,
    AdoptTables,
    AskElectionAgain,
    BrokerRead,
    Cause,
    ClaimConfirmed,
    CloseGate,
    DatabaseAhead,
    Elected,
    LeaderPublished,
    NotElected,
    OpenGate,
    Phase,
    PublishClaim,
    ReadBroker,
    ReportRival,
    Rested,
    SessionBegan,
    SessionEnded,
    StandDown,
    State,
    TablesAdopted,
    TermKnown,
    transition,
)

NOW = 1000
OWN, LOWER, HIGHER = Leader("b", 1000), Leader("z", 999), Leader("a", 1001)
SAME_TERM_LOWER, SAME_TERM_HIGHER = Leader("a", 1000), Leader("c", 1000)

STANDBY = State("b", broker_read=True)
CHOSEN = replace(STANDBY, elected=True, rested=False)
CLAIMING = replace(STANDBY, phase=Phase.CLAIMING, claim=OWN, elected=True, highest_term=900)
CONFIRMED = replace(CLAIMING, confirmed=True)
ADOPTING = replace(CONFIRMED, phase=Phase.ADOPTING)
LEADING = replace(CONFIRMED, phase=Phase.LEADING)
RAISING = replace(LEADING, raising=True, raised_at=0.0, highest_term=1500)

RESTING = replace(STANDBY, elected=True, rested=False, highest_term=900)
"""After ``CLAIMING`` and what follows it."""


def stood_down(cause: Cause, leader: Leader | None = None) -> tuple:
    again = (AskElectionAgain(),) if cause is Cause.DEPOSED else ()
    return CloseGate(), StandDown(OWN, cause, leader), *again


def deposed(leader: Leader) -> tuple:
    state = replace(RESTING, elected=False, highest_term=max(900, leader.term))
    return state, stood_down(Cause.DEPOSED, leader)


@pytest.mark.parametrize(
    ("state", "event", "then", "actions"),
    [
        # -- standing by: the election and the pause decide ----------------------------------------------------------
        pytest.param(
            STANDBY,
            Elected(NOW),
            replace(STANDBY, phase=Phase.CLAIMING, claim=OWN, elected=True),
            (PublishClaim(OWN),),
            id="standby-elected-claims-by-the-clock",
        ),
        pytest.param(
            replace(STANDBY, highest_term=5000),
            Elected(NOW),
            replace(STANDBY, phase=Phase.CLAIMING, claim=Leader("b", 5001), elected=True, highest_term=5000),
            (PublishClaim(Leader("b", 5001)),),
            id="standby-elected-claims-above-all-that-were-seen",
        ),
        pytest.param(
            replace(STANDBY, rested=False), Elected(NOW), CHOSEN, (), id="standby-elected-pauses-first"
        ),
        pytest.param(
            CHOSEN,
            Rested(NOW),
            replace(STANDBY, phase=Phase.CLAIMING, claim=OWN, elected=True),
            (PublishClaim(OWN),),
            id="standby-rested-claims",
        ),
        pytest.param(
            replace(STANDBY, rested=False), Rested(NOW), STANDBY, (), id="standby-rested-is-not-elected"
        ),
        pytest.param(
            CHOSEN, NotElected(), replace(STANDBY, rested=False), (), id="standby-not-elected-any-more"
        ),
        pytest.param(
            STANDBY,
            LeaderPublished(HIGHER),
            replace(STANDBY, highest_term=1001),
            (),
            id="standby-another-claims",
        ),
        pytest.param(
            STANDBY, BrokerRead(HIGHER), replace(STANDBY, highest_term=1001), (), id="standby-another-leads"
        ),
        pytest.param(
            STANDBY, TermKnown(77), replace(STANDBY, highest_term=77), (), id="standby-a-recorded-term"
        ),
        pytest.param(STANDBY, LeaderPublished(None), STANDBY, (), id="standby-claim-cleared"),
        pytest.param(STANDBY, LeaderPublished(gone("a")), STANDBY, (), id="standby-the-leader-has-gone"),
        pytest.param(
            CLAIMING, LeaderPublished(gone("a")), CLAIMING, (), id="claiming-the-former-leader-has-gone"
        ),
        pytest.param(
            LEADING,
            LeaderPublished(gone("a")),
            LEADING,
            (PublishClaim(OWN),),
            id="leading-a-standby-has-gone",
        ),
        pytest.param(STANDBY, ClaimConfirmed(OWN), STANDBY, (), id="standby-late-confirmation"),
        pytest.param(STANDBY, TablesAdopted(OWN), STANDBY, (), id="standby-late-adoption"),
        pytest.param(
            STANDBY,
            DatabaseAhead(2000, 0.0),
            replace(STANDBY, highest_term=2000),
            (),
            id="standby-database-ahead",
        ),
        # -- claiming: published first, everything read afterwards ----------------------------------------------------
        pytest.param(
            CLAIMING, ClaimConfirmed(OWN), CONFIRMED, (ReadBroker(),), id="claiming-confirmed-reads-all"
        ),
        pytest.param(CLAIMING, ClaimConfirmed(LOWER), CLAIMING, (), id="claiming-an-older-claim-confirmed"),
        pytest.param(
            CLAIMING,
            BrokerRead(OWN),
            replace(CLAIMING, highest_term=1000),
            (),
            id="claiming-read-before-confirmed",
        ),
        pytest.param(
            CONFIRMED,
            BrokerRead(OWN),
            replace(ADOPTING, highest_term=1000),
            (AdoptTables(OWN),),
            id="claiming-retained-adopts",
        ),
        pytest.param(
            CONFIRMED,
            BrokerRead(None),
            CLAIMING,
            (PublishClaim(OWN),),
            id="claiming-broker-replaced-claims-again",
        ),
        pytest.param(
            CONFIRMED,
            BrokerRead(SAME_TERM_LOWER),
            replace(CLAIMING, highest_term=1000),
            (PublishClaim(OWN),),
            id="claiming-equal-term-lower-name",
        ),
        pytest.param(CONFIRMED, BrokerRead(HIGHER), *deposed(HIGHER), id="claiming-reads-a-higher-claim"),
        pytest.param(CLAIMING, LeaderPublished(HIGHER), *deposed(HIGHER), id="claiming-hears-a-higher-claim"),
        pytest.param(
            CLAIMING,
            LeaderPublished(SAME_TERM_HIGHER),
            *deposed(SAME_TERM_HIGHER),
            id="claiming-equal-term-higher-name",
        ),
        pytest.param(
            CLAIMING,
            LeaderPublished(LOWER),
            replace(CLAIMING, highest_term=999),
            (),
            id="claiming-hears-a-lower-claim",
        ),
        pytest.param(
            CLAIMING,
            NotElected(),
            replace(RESTING, elected=False),
            stood_down(Cause.NOT_ELECTED),
            id="claiming-not-elected",
        ),
        pytest.param(
            CONFIRMED,
            SessionEnded(),
            replace(CONFIRMED, broker_read=False),
            (CloseGate(),),
            id="claiming-session-ended",
        ),
        pytest.param(
            CONFIRMED,
            SessionBegan(),
            replace(CONFIRMED, broker_read=False),
            (CloseGate(), ReadBroker()),
            id="claiming-session-began",
        ),
        # -- adopting: nothing is published yet -----------------------------------------------------------------------
        pytest.param(ADOPTING, TablesAdopted(OWN), LEADING, (OpenGate(),), id="adopting-adopted-leads"),
        pytest.param(
            replace(ADOPTING, broker_read=False),
            TablesAdopted(OWN),
            replace(LEADING, broker_read=False),
            (),
            id="adopting-adopted-while-the-broker-is-away",
        ),
        pytest.param(ADOPTING, TablesAdopted(LOWER), ADOPTING, (), id="adopting-an-older-adoption"),
        pytest.param(ADOPTING, LeaderPublished(HIGHER), *deposed(HIGHER), id="adopting-hears-a-higher-claim"),
        pytest.param(
            ADOPTING,
            LeaderPublished(None),
            ADOPTING,
            (PublishClaim(OWN),),
            id="adopting-claim-cleared-claims-again",
        ),
        pytest.param(
            ADOPTING,
            BrokerRead(OWN),
            replace(ADOPTING, highest_term=1000),
            (),
            id="adopting-read-opens-no-gate",
        ),
        pytest.param(
            ADOPTING,
            NotElected(),
            replace(RESTING, elected=False),
            stood_down(Cause.NOT_ELECTED),
            id="adopting-not-elected",
        ),
        # -- leading: the gate is open only in a session in which the broker was read --------------------------------
        pytest.param(
            LEADING,
            SessionEnded(),
            replace(LEADING, broker_read=False),
            (CloseGate(),),
            id="leading-session-ended-closes",
        ),
        pytest.param(
            replace(LEADING, broker_read=False),
            SessionBegan(),
            replace(LEADING, broker_read=False),
            (CloseGate(), ReadBroker()),
            id="leading-session-began-reads-first",
        ),
        pytest.param(
            replace(LEADING, broker_read=False),
            BrokerRead(OWN),
            replace(LEADING, highest_term=1000),
            (OpenGate(),),
            id="leading-read-opens",
        ),
        pytest.param(
            replace(LEADING, broker_read=False),
            BrokerRead(None),
            LEADING,
            (PublishClaim(OWN), OpenGate()),
            id="leading-broker-forgot-claims-again",
        ),
        pytest.param(
            replace(LEADING, broker_read=False),
            BrokerRead(HIGHER),
            *deposed(HIGHER),
            id="leading-reads-a-higher-claim",
        ),
        pytest.param(LEADING, LeaderPublished(HIGHER), *deposed(HIGHER), id="leading-hears-a-higher-claim"),
        pytest.param(
            LEADING,
            LeaderPublished(OWN),
            replace(LEADING, highest_term=1000),
            (),
            id="leading-hears-its-own-claim",
        ),
        pytest.param(
            LEADING,
            LeaderPublished(LOWER),
            replace(LEADING, highest_term=999),
            (PublishClaim(OWN),),
            id="leading-claim-overwritten-claims-again",
        ),
        pytest.param(
            LEADING,
            NotElected(),
            replace(RESTING, elected=False),
            stood_down(Cause.NOT_ELECTED),
            id="leading-another-is-elected",
        ),
        pytest.param(LEADING, Elected(NOW), LEADING, (), id="leading-elected-again"),
        # -- a database that knows a higher term ----------------------------------------------------------------------
        pytest.param(
            LEADING,
            DatabaseAhead(1500, 0.0),
            RAISING,
            (ReadBroker(),),
            id="leading-database-ahead-reads-the-broker",
        ),
        pytest.param(
            RAISING,
            BrokerRead(OWN),
            replace(RESTING, highest_term=1500, raised_at=0.0),
            stood_down(Cause.RAISED),
            id="raising-no-higher-claim-stands-down",
        ),
        pytest.param(
            RAISING,
            BrokerRead(Leader("a", 1500)),
            replace(RESTING, elected=False, highest_term=1500, raised_at=0.0),
            stood_down(Cause.DEPOSED, Leader("a", 1500)),
            id="raising-a-higher-claim-deposes",
        ),
        pytest.param(
            RAISING,
            BrokerRead(None),
            replace(RAISING, raising=False),
            (PublishClaim(OWN), OpenGate()),
            id="raising-broker-forgot-claims-again",
        ),
        pytest.param(
            replace(RAISING, raising=False),
            DatabaseAhead(1600, RAISE_SECONDS - 1),
            replace(RAISING, raising=False, highest_term=1600),
            (),
            id="leading-database-ahead-again-too-soon",
        ),
        pytest.param(
            replace(RAISING, raising=False),
            DatabaseAhead(1600, RAISE_SECONDS),
            replace(RAISING, raised_at=RAISE_SECONDS, highest_term=1600),
            (ReadBroker(),),
            id="leading-database-ahead-ten-minutes-later",
        ),
        pytest.param(LEADING, DatabaseAhead(800, 0.0), LEADING, (), id="leading-database-is-not-ahead"),
    ],
)
def test_transitions(state: State, event: object, then: State, actions: tuple) -> None:
    assert transition(state, event) == (then, actions)


EAST, WEST = "uid-of-east", "uid-of-west"
MINE = replace(STANDBY, owner=EAST, elected=True)
OWNED = Leader("b", NOW, EAST)
RIVAL = Leader("a", 1001, WEST)
SHARED = replace(MINE, other=RIVAL, highest_term=1001)


@pytest.mark.parametrize(
    ("state", "event", "then", "actions"),
    [
        pytest.param(
            replace(MINE, broker_read=False),
            Elected(NOW, EAST),
            replace(MINE, broker_read=False),
            (),
            id="a-claim-would-hide-anothers-so-the-broker-is-read-first",
        ),
        pytest.param(
            STANDBY,
            Elected(NOW, EAST),
            replace(MINE, phase=Phase.CLAIMING, claim=OWNED),
            (PublishClaim(OWNED),),
            id="nobody-else-leads",
        ),
        pytest.param(
            replace(MINE, broker_read=False),
            BrokerRead(RIVAL),
            SHARED,
            (ReportRival(RIVAL),),
            id="another-cluster-leads",
        ),
        pytest.param(SHARED, Elected(NOW, EAST), SHARED, (), id="nothing-is-claimed-beside-it"),
        pytest.param(
            replace(MINE, broker_read=False),
            BrokerRead(Leader("a", 1001, EAST)),
            replace(MINE, other=Leader("a", 1001, EAST), highest_term=1001),
            (),
            id="a-router-of-the-same-cluster-leads",
        ),
        pytest.param(
            replace(MINE, broker_read=False),
            BrokerRead(Leader("a", 1001)),
            replace(MINE, highest_term=1001),
            (),
            id="a-router-of-an-earlier-version-leads",
        ),
        pytest.param(
            SHARED,
            LeaderPublished(None),
            replace(SHARED, other=None),
            (ReportRival(None),),
            id="the-other-cluster-has-gone",
        ),
        pytest.param(
            replace(MINE, phase=Phase.LEADING, claim=OWNED, confirmed=True),
            LeaderPublished(RIVAL),
            replace(SHARED, elected=False, rested=False),
            (CloseGate(), StandDown(OWNED, Cause.DEPOSED, RIVAL), AskElectionAgain(), ReportRival(RIVAL)),
            id="of-two-that-claimed-at-once-the-lower-stands-down",
        ),
    ],
)
def test_clusters_that_share_a_broker(state: State, event: object, then: State, actions: tuple) -> None:
    assert transition(state, event) == (then, actions)


LEADERS = st.one_of(
    st.none(), st.builds(Leader, st.sampled_from("abc"), st.integers(0, 3000)), st.just("the claim")
)
EVENTS = st.one_of(
    st.builds(Elected, st.integers(0, 2000)),
    st.builds(Rested, st.integers(0, 2000)),
    st.sampled_from((NotElected(), SessionBegan(), SessionEnded())),
    st.builds(ClaimConfirmed, LEADERS.filter(bool)),
    st.builds(BrokerRead, LEADERS),
    st.builds(LeaderPublished, LEADERS),
    st.builds(TablesAdopted, LEADERS.filter(bool)),
    st.builds(TermKnown, st.integers(0, 3000)),
    st.builds(DatabaseAhead, st.integers(0, 3000), st.floats(0, 3000)),
)


ASCENT = (
    SessionBegan(),
    Elected(NOW),
    ClaimConfirmed("the claim"),
    BrokerRead("the claim"),
    TablesAdopted("the claim"),
)


@given(st.integers(0, len(ASCENT)).map(lambda steps: ASCENT[:steps]), st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_gate_is_open_only_for_one_that_leads_and_has_read_the_broker(
    ascent, events
) -> None:
    state, gate, claiming, read_since = State("b"), False, [], True
    for event in (*ascent, *events):
        name = next(iter(event.__dataclass_fields__), "")
        if getattr(event, name, None) == "the claim":  # stands for the present claim
            event = type(event)(state.claim)  # noqa: PLW2901
            if isinstance(event, ClaimConfirmed | TablesAdopted) and event.claim is None:
                continue
        known = state.highest_term
        state, actions = transition(state, event)
        for action in actions:
            match action:
                case OpenGate() | CloseGate():
                    gate = isinstance(action, OpenGate)
                case PublishClaim(claim) if claim not in claiming:
                    assert claim.term > known, "a claim is above every term that was seen"
                    assert not claiming or claim.term > 0
                    claiming.append(claim)
                    read_since = False
                case ReadBroker():
                    read_since = True
                case AdoptTables():
                    assert read_since, "everything retained is read after the claim"
                case _:
                    pass
        assert not gate or (state.phase is Phase.LEADING and state.broker_read)
        assert (state.claim is None) == (state.phase is Phase.STANDBY)
