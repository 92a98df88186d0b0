"""Settings of `galactic lab up`, checked against the lab that is up, and against the lab that it joins."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from galactic.errors import Rejected
from galactic_lab.builds.guest_kernels import KERNELS
from galactic_lab.processes import Supervisor
from galactic_lab.state import LINUX, MAX_NODES, MAX_ROUTERS, State, labs


def agreed(name: str, fixed: Mapping[str, Any], free: Mapping[str, Any]) -> State:
    """The settings to use. Raises Rejected where ``fixed`` settings contradict those of the lab that is up."""
    given, changed = (
        {key: value for key, value in asked.items() if value is not None} for asked in (fixed, free)
    )
    if not 0 <= (nodes := given.get("nodes", 0)) <= MAX_NODES:
        raise Rejected(f"must be 0 to {MAX_NODES}, not {nodes}", field="nodes")
    if not 1 <= (routers := changed.get("routers", 1)) <= MAX_ROUTERS:
        raise Rejected(f"must be 1 to {MAX_ROUTERS}, not {routers}", field="routers")
    if (linux := given.get("linux", LINUX)) not in KERNELS:
        raise Rejected(f"no guest kernel {linux!r}; there are {', '.join(KERNELS)}", field="linux")
    known = State.load(name)
    if given.get("chart") or (known and known.chart):
        _charted(given, changed)
    if known is None:
        state = State(name, **given, **changed)
        return _joining(state, changed) if state.join else state
    for key, value in given.items():
        if getattr(known, key) != value:
            raise Rejected(
                f"lab {known.name!r} is up with {getattr(known, key) or 'the default'}, not {value}; "
                "run `galactic lab down` first",
                field=key,
            )
    return replace(known, **changed)


def _charted(given: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Raises Rejected for settings that exclude the chart."""
    if given.get("nodes") == 0:
        raise Rejected("the chart's pods need nodes", field="nodes")
    if asked := sorted(key for key in (*changed, "join") if changed.get(key) or given.get(key)):
        raise Rejected("not with --chart: set it in the values of the chart", field=", ".join(asked))


def _joining(state: State, changed: Mapping[str, Any]) -> State:
    """The state with its cluster's number and its first node in the lab that it joins."""
    host = State.load(state.join)
    if host is None or host.join or not Supervisor(host).running():
        raise Rejected(f"lab {state.join!r} is not up, or joins another itself", field="join")
    if not host.standalone or not host.nodes:
        raise Rejected(
            f"the routers of lab {host.name!r} serve its own cluster alone; run "
            f"`galactic lab up --name {host.name} --standalone`, with nodes",
            field="join",
        )
    if changed:
        raise Rejected(
            f"a lab that joins another has none of its own; see lab {host.name!r}", field=", ".join(changed)
        )
    if state.latency:
        raise Rejected(f"set it for lab {host.name!r}, which owns the fabric", field="latency")
    others = [host, *joined(host.name)]
    return replace(
        state,
        linux=host.linux,
        linux_source=host.linux_source,
        site=1 + max(other.site for other in others),
        first=max(other.first + other.nodes for other in others),
    )


def joined(name: str) -> list[State]:
    """The labs that joined lab ``name``."""
    states = (State.load(other) for other in labs())
    return [state for state in states if state is not None and state.join == name]
