"""Pods come, move and go, and at a random moment of each of these a component is killed. In the end the messages that
the broker retains, the attachments' statuses, the database and every node's kernel agree with the attached pods.
"""

import os
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
from mqtt import BASE, retained
from routers import leading, pids
from story import Tenant, eventually

from galactic.errors import Rejected
from galactic.messages import Route, digest
from galactic.node.dataplane.plan import FIRST_TABLE, TABLES
from galactic_lab.cluster import Lab

STEPS = int(os.environ.get("GALACTIC_STEPS", "6"))
ATTACHMENTS = ("a", "b", "c", "d", "e")
LONGEST = 2.0
"""Seconds from the beginning of an operation to the kill: it takes about that long."""


class Place(NamedTuple):
    """Where an attachment is carried."""

    pod: str
    node: str


class World:
    """Places of the attachments as the story asked for them, and its operations."""

    def __init__(self, tenant: Tenant, chance: random.Random) -> None:
        self._tenant, self._chance = tenant, chance
        self.lab = tenant.lab
        self.nodes = [member.name for member in self.lab.state.members]
        self.places: dict[str, Place] = {}
        self._pods = 0

    def operation(self) -> None:
        """Attaches, moves or detaches one, at random; returns when the API server has taken it."""
        name = self._chance.choice(ATTACHMENTS)
        before = self.places.get(name)
        if before is None or self._chance.random() < 0.6:
            self._pods += 1
            place = Place(f"{name}{self._pods}", self._chance.choice(self.nodes))
            self._insist(lambda: self._tenant.pod(place.pod, place.node, attachment=name, wait=False))
            self.places[name] = place
        else:
            del self.places[name]
        if before is not None:
            delete = ("delete", "pod", "-n", self._tenant.namespace, before.pod)
            self._insist(lambda: self.lab.kubectl(*delete, "--wait=false", "--ignore-not-found"))

    def _insist(self, call: Callable[[], object]) -> None:
        """The API server may be away just now."""

        def taken() -> bool:
            try:
                call()
            except Rejected:
                return False
            return True

        eventually("the API server takes it", taken)

    def kill(self) -> str:
        """Kills one component; its name."""
        routers = list(pids(self.lab))
        controllers = [f"controller/{node}" for node in self.nodes]
        kinds = (["mosquitto"], ["kube-apiserver"], ["postgres"], ["operator"], routers, controllers)
        component = self._chance.choice(self._chance.choice(kinds))
        try:
            self.lab.kill(component)
        except Rejected:
            return f"{component}, which was dead"  # it was killed before, and waits to be started
        return component


def test_kills(replicas: Lab, tenants: Callable[..., Tenant]) -> None:
    given = os.environ.get("GALACTIC_SEED", "1")  # "new": a random one
    seed = random.randrange(1 << 32) if given == "new" else int(given)
    sys.stdout.write(f"GALACTIC_SEED={seed}\n")
    chance = random.Random(seed)
    blue = tenants("blue")
    vpc = blue.make_vpc()
    for number, name in enumerate(ATTACHMENTS, 1):
        blue.attach(name, f"10.1.1.{number}/24", f"2001:10:1:1::{number}/64")
    world = World(blue, chance)
    for step in range(STEPS):
        began = time.monotonic()
        world.operation()
        time.sleep(max(0.0, chance.uniform(0, LONGEST) - (time.monotonic() - began)))
        sys.stdout.write(f"{step}: killed {world.kill()}; {world.places}\n")
    world.operation()
    if not world.places:
        world.operation()
    agreed(world, blue, vpc)


def agreed(world: World, blue: Tenant, vpc: str) -> None:
    """Segments, broker, statuses, database and kernels agree with the story, and pods reach each other."""
    lab = world.lab
    pods = [place.pod for place in world.places.values()]
    eventually("the API server is back", lambda: lab.kubectl("get", "--raw", "/readyz", check=False) == "ok")
    blue.wait_for_pods(*pods)
    for source, holders in (
        ("segments", lambda: attached(lab, vpc)),
        ("retained", lambda: retained_routes(lab, vpc)),
        ("statuses", lambda: recorded(blue)),
        ("database", lambda: written(lab, vpc)),
    ):
        eventually(
            f"{source} say where the pods are",
            lambda holders=holders: placed(holders()) == where(world, blue),
        )
    routes = eventually(
        "all say the very same",
        lambda: same(attached(lab, vpc), retained_routes(lab, vpc), recorded(blue), written(lab, vpc)),
    )
    eventually("each kernel has that, and no more", lambda: unlike(lab, vpc, routes) == {})
    addresses = {name: f"10.1.1.{number}" for number, name in enumerate(ATTACHMENTS, 1)}
    pairs = [
        (place.pod, addresses[name])
        for at, place in world.places.items()
        for name in world.places
        if name != at
    ]
    if pairs:
        blue.all_reach(pairs)
    assert leading(lab) in pids(lab)
    eventually("the broker has every node online", lambda: offline(lab, world.nodes) == [])


def offline(lab: Lab, nodes: list[str]) -> list[str]:
    """The nodes whose retained status is not online."""
    messages = retained(lab)
    states = {node: messages.get(f"{BASE}/nodes/default/{node}/status", {}).get("state") for node in nodes}
    return [node for node, state in states.items() if state != "online"]


def where(world: World, blue: Tenant) -> dict[str, tuple[str, str]]:
    """Network → (node, attachment) as the story did it."""
    found = {}
    for name, place in world.places.items():
        number = ATTACHMENTS.index(name) + 1
        for network in (f"10.1.1.{number}/32", f"2001:10:1:1::{number}/128"):
            found[network] = (place.node, f"{blue.namespace}/{name}")
    return found


class Holder(NamedTuple):
    """The holder of a network."""

    node: str
    sid: str
    epoch: int
    attachment: str


Holders = dict[str, Holder]


def placed(holders: Holders) -> dict[str, tuple[str, str]]:
    return {network: (holder.node, holder.attachment) for network, holder in holders.items()}


def same(*all_of_them: Holders) -> Holders | None:
    first, *others = all_of_them
    return first if all(other == first for other in others) else None


def attached(lab: Lab, vpc: str) -> Holders:
    """By the nodes' segments, the newest endpoint of each attachment: all else follows from these."""
    newest: dict[str, tuple[int, str, dict[str, Any]]] = {}
    for segment in lab.get("nodesegments")["items"]:
        for endpoint in segment.get("status", {}).get("endpoints") or ():
            if endpoint["vpc"] == vpc:
                entry = (endpoint["epoch"], segment["metadata"]["name"], endpoint)
                newest[endpoint["function"]] = max(
                    newest.get(endpoint["function"], entry), entry, key=lambda entry: entry[0]
                )
    return {
        network: Holder(node, endpoint["sid"], epoch, endpoint["attachment"])
        for epoch, node, endpoint in newest.values()
        for network in endpoint["networks"]
    }


def retained_routes(lab: Lab, vpc: str) -> Holders:
    """By the broker's retained table, which must be complete and have the head's count and digest."""
    messages = retained(lab)
    mine = {topic: value for topic, value in messages.items() if topic.startswith(f"{BASE}/vpcs/{vpc}/")}
    names = {
        endpoint["function"]: endpoint["attachment"]
        for endpoint in _endpoints(messages)
        if endpoint["vpc"] == vpc
    }
    head = mine.pop(f"{BASE}/vpcs/{vpc}/head", {"count": 0, "shards": 0, "digest": digest(()), "revision": 0})
    shards = [mine.pop(f"{BASE}/vpcs/{vpc}/table/{number}", None) for number in range(head["shards"])]
    routes = [route for shard in shards if shard for route in shard["routes"]]
    structs = [Route(**{**route, "segments": tuple(route["segments"])}) for route in routes]
    sums = (head["count"], head["digest"]) == (len(routes), digest(structs))
    if mine or None in shards or not sums:
        return {}
    return {
        route["network"]: Holder(
            route["node"], *route["segments"], route["epoch"], names.get(route["function"], "")
        )
        for route in routes
    }


def _endpoints(messages: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        endpoint
        for topic, value in messages.items()
        if topic.startswith(f"{BASE}/nodes/") and topic.endswith("/endpoints") and value
        for endpoint in value["endpoints"]
    ]


def recorded(blue: Tenant) -> Holders:
    """By the attachments' statuses."""
    found = {}
    for attachment in blue.lab.get("vpca", "-n", blue.namespace)["items"]:
        if endpoint := attachment["status"].get("endpoint"):
            name = f"{blue.namespace}/{attachment['metadata']['name']}"
            for network in endpoint["networks"]:
                found[network] = Holder(endpoint["node"], endpoint["sid"], endpoint["epoch"], name)
    return found


def written(lab: Lab, vpc: str) -> Holders:
    """By the database's open periods; its constraint allows one for each network."""
    query = (
        "SELECT network::text, node, host(sid), epoch, attachment FROM galactic.period "
        "WHERE vpc = %s AND upper_inf(during)"
    )
    try:
        with psycopg.connect(lab.state.database_url(), connect_timeout=60) as connection:
            rows = connection.execute(query, (int(vpc, 16),)).fetchall()
    except psycopg.OperationalError:
        return {}  # not up again yet
    assert len({row[0] for row in rows}) == len(rows)
    return {network: Holder(*rest) for network, *rest in rows}


def unlike(lab: Lab, vpc: str, routes: Holders) -> dict[str, Any]:
    """Node → routes that its kernel has too many, and routes that it lacks."""
    table, found = str(FIRST_TABLE + int(vpc, 16) % TABLES), {}
    for member in lab.state.members:
        script = "ip -4 route show table all proto 154; ip -6 route show table all proto 154"
        output = lab.exec(member.name, ["sh", "-c", script])
        here = {sid for _, (node, sid, *_) in routes.items() if node == member.name}
        away = {
            (network.removesuffix("/32").removesuffix("/128"), holder.sid)
            for network, holder in routes.items()
            if here and holder.node != member.name
        }
        encapsulated = re.findall(
            r"^(\S+)\s+encap seg6 mode \S+ segs 1 \[ (\S+) \].* table (\d+)", output, re.MULTILINE
        )
        own = re.findall(rf"^(\S+)\s+encap seg6local action End.DT46 vrftable {table} ", output, re.MULTILINE)
        now = {(network, sid) for network, sid, number in encapsulated if number == table}
        if now != away or set(own) != here:
            found[member.name] = {"remote": now ^ away, "own": set(own) ^ here}
    return found
