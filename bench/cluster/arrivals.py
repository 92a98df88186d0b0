"""When routes of new pods arrive at nodes."""

import time
from collections.abc import Mapping

from galactic.linux.objects import PackedNetwork
from galactic.node.state.remote import Entry, Source
from galactic.node.state.store import Store


class Arrivals:
    """When the routes of new pods arrived at other nodes: by pod the first and the last one, on the monotonic clock."""

    def __init__(self) -> None:
        self._expected: dict[tuple[int, PackedNetwork], str] = {}
        self._moments: dict[str, tuple[float, float]] = {}

    def expect(self, vpc: int, network: PackedNetwork, pod: str) -> None:
        self._expected[vpc, network] = pod

    def arrived(self, vpc: int, network: PackedNetwork) -> None:
        if (pod := self._expected.get((vpc, network))) is not None:
            now = time.monotonic()
            self._moments[pod] = self._moments.get(pod, (now, now))[0], now

    def drain(self) -> dict[str, tuple[float, float]]:
        moments, self._moments = self._moments, {}
        return moments


class ObservedStore(Store):
    """Reports each route that a change of a table brings."""

    arrivals: Arrivals

    def set_table(
        self,
        vpc: int,
        source: Source,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> None:
        super().set_table(vpc, source, revision, routes, before)
        if source is Source.MQTT:
            for network in before or ():
                self.arrivals.arrived(vpc, network)
