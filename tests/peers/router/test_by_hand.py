"""The router as an outsider meets it: JSON written by hand, ``mosquitto_pub`` and ``mosquitto_sub``, no code of ours.

Each scenario has a VPC and two or three nodes of its own, and what must be retained at its end, field by field.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import pytest

BASE = "galactic/v1"
PATIENCE_SECONDS = 200
A, B, C = "a", "b", "c"
Decoder = tuple[str, int, list[dict]]


class Place:
    """A VPC and its nodes, by number."""

    def __init__(self, number: int) -> None:
        self.vpc = f"{number:012x}"
        self.number = number

    def node(self, which: str) -> str:
        return f"s{self.number}{which}"

    def prefix(self, which: str) -> str:
        return f"2001:db8:ff{self.number:02x}:{ord(which) - 96}00::/56"

    def sid(self, which: str, function: int) -> str:
        return f"2001:db8:ff{self.number:02x}:{ord(which) - 96}00::{self.number:x}:{function:x}"

    def endpoint(
        self, which: str, function: int, networks: list[str], epoch: int = 1, **other: object
    ) -> dict:
        return {
            "vpc": self.vpc,
            "function": f"{function:04x}",
            "attachment": f"ns/a{function}",
            "sid": self.sid(which, function),
            "networks": networks,
            "epoch": epoch,
            **other,
        }

    def route(self, network: str, which: str, function: int, epoch: int = 1) -> dict:
        return {
            "network": network,
            "segments": [self.sid(which, function)],
            "cluster": "default",
            "node": self.node(which),
            "function": f"{function:04x}",
            "epoch": epoch,
        }


N1, N2, N3 = "10.1.1.1/32", "10.1.1.2/32", "fd00::3/128"
SCENARIOS: dict[str, tuple[Callable[[Place], list[Decoder]], Callable[[Place], list[dict]]]] = {
    "one-endpoint": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1])])],
        lambda place: [place.route(N1, A, 1)],
    ),
    "two-on-two-nodes": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1])]), (B, 1, [place.endpoint(B, 2, [N2])])],
        lambda place: [place.route(N1, A, 1), place.route(N2, B, 2)],
    ),
    "two-on-one-node": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1]), place.endpoint(A, 2, [N2])])],
        lambda place: [place.route(N1, A, 1), place.route(N2, A, 2)],
    ),
    "several-networks": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1, N3, "10.9.0.0/16", N1])])],
        lambda place: [place.route(network, A, 1) for network in (N1, "10.9.0.0/16", N3)],
    ),
    "a-network-more-and-one-less": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1, N2])]), (A, 2, [place.endpoint(A, 1, [N2, N3])])],
        lambda place: [place.route(N2, A, 1), place.route(N3, A, 1)],
    ),
    "a-move": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1], 5)]), (B, 1, [place.endpoint(B, 1, [N1], 6)])],
        lambda place: [place.route(N1, B, 1, 6)],
    ),
    "a-move-told-late": (
        lambda place: [(B, 1, [place.endpoint(B, 1, [N1], 6)]), (A, 1, [place.endpoint(A, 1, [N1], 5)])],
        lambda place: [place.route(N1, B, 1, 6)],
    ),
    "a-move-and-back": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1], 5)]),
            (B, 1, [place.endpoint(B, 1, [N1], 6)]),
            (B, 2, []),
            (A, 2, [place.endpoint(A, 1, [N1], 7)]),
        ],
        lambda place: [place.route(N1, A, 1, 7)],
    ),
    "one-of-two-leaves": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1])]),
            (B, 1, [place.endpoint(B, 2, [N2])]),
            (A, 2, []),
        ],
        lambda place: [place.route(N2, B, 2)],
    ),
    "the-last-leaves": (lambda place: [(A, 1, [place.endpoint(A, 1, [N1])]), (A, 2, [])], lambda _: []),
    "it-joins-again": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1], 5)]),
            (A, 2, []),
            (A, 3, [place.endpoint(A, 1, [N1], 9)]),
        ],
        lambda place: [place.route(N1, A, 1, 9)],
    ),
    "a-replay": (
        lambda place: [
            (A, 4, [place.endpoint(A, 1, [N1])]),
            (A, 3, [place.endpoint(A, 1, [N2])]),
            (A, 4, []),
        ],
        lambda place: [place.route(N1, A, 1)],
    ),
    "a-conflict-the-holder-keeps-it": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1], 1)]), (B, 1, [place.endpoint(B, 2, [N1, N2], 9)])],
        lambda place: [place.route(N1, A, 1), place.route(N2, B, 2, 9)],
    ),
    "a-conflict-the-holder-leaves": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1], 1)]),
            (B, 1, [place.endpoint(B, 2, [N1], 9)]),
            (A, 2, []),
        ],
        lambda place: [place.route(N1, B, 2, 9)],
    ),
    "another-node's-sid": (
        lambda place: [
            (B, 1, [place.endpoint(B, 1, [N1], sid=place.sid(A, 1)), place.endpoint(B, 2, [N2])]),
        ],
        lambda place: [place.route(N2, B, 2)],
    ),
    "a-sid-of-another-vpc": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1], vpc=f"{place.number + 100:012x}"), place.endpoint(A, 2, [N2])])
        ],
        lambda place: [place.route(N2, A, 2)],
    ),
    "one-bad-network-among-good-ones": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1, "169.254.0.0/16", "10.1.1.9/24", "10.1.1.8", N2])])],
        lambda place: [place.route(N1, A, 1), place.route(N2, A, 1)],
    ),
    "unknown-fields": (
        lambda place: [(A, 1, [place.endpoint(A, 1, [N1], colour="blue", deep={"er": [1]})])],
        lambda place: [place.route(N1, A, 1)],
    ),
    "an-epoch-far-in-the-future": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1], (1 << 62) - 1)]),
            (B, 1, [place.endpoint(B, 1, [N1], 5), place.endpoint(B, 2, [N2])]),
        ],
        lambda place: [place.route(N1, B, 1, 5), place.route(N2, B, 2)],
    ),
    "a-sequence-far-in-the-future-silences-no-node": (
        lambda place: [
            (A, 1, [place.endpoint(A, 1, [N1])]),
            (B, 1, [place.endpoint(B, 2, [N2])]),
            (A, (1 << 62) - 1, []),
            (B, (1 << 62) - 1, []),
            (A, 2, [place.endpoint(A, 1, [N1]), place.endpoint(A, 3, [N3])]),
        ],
        lambda place: [place.route(N1, A, 1), place.route(N2, B, 2), place.route(N3, A, 3)],
    ),
    "a-chain-of-three": (
        lambda place: [
            (which, 1, [place.endpoint(which, 1, [N1], epoch)]) for epoch, which in enumerate((A, B, C), 1)
        ],
        lambda place: [place.route(N1, C, 1, 3)],
    ),
}


class Outsider:
    """Publishes and receives with the broker's own clients."""

    def __init__(self, port: int) -> None:
        self._port = str(port)
        self.retained: dict[str, dict] = {}
        self.changes: dict[str, list[dict]] = {}
        command = [
            "mosquitto_sub",
            "-p",
            self._port,
            "-k",
            "600",
            "-q",
            "1",
            "-t",
            f"{BASE}/#",
            "-F",
            "%t %p",
        ]
        self._sub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._sub.stdout
        for line in self._sub.stdout:
            topic, _, payload = line.rstrip("\n").partition(" ")
            if topic.endswith("/changes"):
                changes, change = self.changes.setdefault(topic.split("/")[3], []), json.loads(payload)
                if changes[-1:] != [change]:  # at least once: again where the broker was slow to confirm it
                    changes.append(change)
            elif payload:
                self.retained[topic] = json.loads(payload) if payload[0] == "{" else {}
            else:
                self.retained.pop(topic, None)

    def publish(self, topic: str, payload: dict) -> None:
        text = json.dumps(payload)
        command = ["mosquitto_pub", "-p", self._port, "-q", "1", "-r", "-t", f"{BASE}/{topic}", "-m", text]
        subprocess.run(command, check=True)

    def table(self, vpc: str) -> list[dict] | None:
        """All routes as they are retained, once head and shards agree; no topics: none."""
        messages = {topic: place for topic, place in self.retained.copy().items() if f"/vpcs/{vpc}/" in topic}
        head = messages.pop(f"{BASE}/vpcs/{vpc}/head", None)
        if head is None:
            return None if messages else []
        assert head.keys() == {"revision", "count", "digest", "shards", "schema"}
        shards = [messages.pop(f"{BASE}/vpcs/{vpc}/table/{number}", None) for number in range(head["shards"])]
        if messages or None in shards:
            return None
        assert all(shard.keys() == {"revision", "of", "routes", "schema"} for shard in shards)
        routes = [route for shard in shards for route in shard["routes"]]
        adds_up = (len(routes), digest(routes)) == (head["count"], head["digest"])
        return routes if adds_up and all(shard["of"] == head["shards"] for shard in shards) else None

    def close(self) -> None:
        self._sub.kill()  # it catches SIGTERM, and can hang for ever
        self._sub.wait()
        self._reader.join()
        assert self._sub.stdout
        self._sub.stdout.close()


@pytest.fixture
def outsider(mosquitto) -> Iterator[Outsider]:
    """With a router of its own process beside it."""
    mosquitto.start()
    outsider = Outsider(mosquitto.port)
    options = (
        "--kubernetes",
        "false",
        "--require-entitlements",
        "false",
        "--mqtt-url",
        mosquitto.url,
        "--metrics-port",
        "0",
    )
    router = subprocess.Popen([sys.executable, "-m", "galactic.router", *options], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        # Or the router would receive the last message of each topic only.
        while f"{BASE}/router/leader" not in outsider.retained:
            assert router.poll() is None, "the router ended"
            assert time.monotonic() < deadline, "the router does not lead"
            time.sleep(0.1)
        yield outsider
    finally:
        router.terminate()
        router.wait()
        outsider.close()


def digest(routes: list[dict]) -> str:
    """As docs/architecture.md describes it: the sum, modulo 2^64, of an 8-byte BLAKE2b of each route."""
    texts = (
        "|".join(
            [
                place["network"],
                ",".join(place["segments"]),
                place["cluster"],
                place["node"],
                place["function"],
            ]
        )
        + f"|{place['epoch']}"
        for place in routes
    )
    total = sum(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts)
    return f"{total % (1 << 64):016x}"


def by_network(routes: list[dict]) -> list[dict]:
    return sorted(routes, key=lambda route: route["network"])


def followed(changes: Iterable[dict], name: str) -> list[dict]:
    """The table of an early subscriber, from all changes. The router may leave out a route that came and went."""
    at, now = 0, {}
    for change in changes:
        assert change.keys() == {"revision", "previous", "set", "delete", "schema"}, name
        assert change["previous"] == at or not now, name
        at = change["revision"]
        assert not [route for route in change["set"] if now.get(route["network"]) == route], name
        now |= {route["network"]: route for route in change["set"]}
        for network in change["delete"]:
            del now[network]
    return by_network([*now.values()])


def test_scenarios(outsider) -> None:
    """All at one router, which takes a second to pack each: published one after the other, checked together."""
    places = {name: Place(number) for number, name in enumerate(SCENARIOS, 1)}
    for name, (register, _) in SCENARIOS.items():
        place = places[name]
        for which in (A, B, C):
            status = {"state": "online", "prefix": place.prefix(which), "version": "by hand"}
            outsider.publish(f"nodes/default/{place.node(which)}/status", status)
        for which, sequence, endpoints in register(place):
            topic = f"nodes/default/{place.node(which)}/endpoints"
            outsider.publish(topic, {"sequence": sequence, "endpoints": endpoints})
    wanted = {name: by_network(expected(places[name])) for name, (_, expected) in SCENARIOS.items()}
    deadline = time.monotonic() + PATIENCE_SECONDS
    retained: dict[str, object] = {}
    changed: dict[str, object] = {}
    while (retained != wanted or changed != wanted) and time.monotonic() < deadline:
        time.sleep(0.2)
        tables = {name: outsider.table(places[name].vpc) for name in SCENARIOS}
        retained = {name: None if place is None else by_network(place) for name, place in tables.items()}
        changed = {
            name: followed(outsider.changes.get(place.vpc, ()), name) for name, place in places.items()
        }
    assert retained == wanted
    assert changed == wanted
    assert not {f"{place.number + 100:012x}" for place in places.values()} & outsider.changes.keys()
    assert outsider.retained[f"{BASE}/router/leader"].keys() == {"id", "term", "owner", "schema"}
