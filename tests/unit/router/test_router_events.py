"""Problems of a router are Events of its Pod or Lease: once, and again before they expire."""

import pytest

from galactic.errors import Unreachable
from galactic.kube.api import Objects
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import EVENTS, LEASES
from galactic.router.kubernetes.router_events import PATIENCE_SECONDS, REPEAT_SECONDS, RouterEvents

WRONG = "the broker refused the connection: Not authorized; check mqtt_username and mqtt_password"


class Server(MemoryApi):
    """With the router's Lease, if there is one. ``away``: no request is answered."""

    def __init__(self, lease: bool = True) -> None:
        super().__init__()
        self.away = False
        self.fail = lambda *_: Unreachable("kube-apiserver", "away") if self.away else None
        if lease:
            self.put(LEASES, {"metadata": {"name": "galactic-router"}}, "net")

    @property
    def events(self) -> Objects:
        events = list(self.all(EVENTS))
        for event in events:
            assert event["metadata"]["namespace"] == event["involvedObject"]["namespace"]
        return events


class Router:
    """Its problems, and a clock."""

    def __init__(self, api: Server) -> None:
        self.problems: dict[str, str] = {}
        self.at = 1000.0
        self.events = RouterEvents(api, lambda: self.problems, lambda: self.at)

    async def after(self, seconds: float) -> None:
        self.at += seconds
        await self.events.poll()


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "net")
    for name in ("POD_NAME", "POD_UID"):
        monkeypatch.delenv(name, raising=False)


async def test_a_problem_that_stays_is_reported_and_repeated() -> None:
    api = Server()
    router = Router(api)
    router.problems = {"mqtt": WRONG, "view": "waiting for what is retained and listed"}
    await router.after(0)
    assert not api.events, "it may be over in a moment"
    await router.after(PATIENCE_SECONDS)
    (event,) = api.events
    assert (event["type"], event["reason"]) == ("Warning", "BrokerUnreachable")
    assert WRONG in event["message"]
    assert event["involvedObject"]["kind"] == "Lease"
    await router.after(REPEAT_SECONDS - 1)
    assert len(api.events) == 1
    await router.after(1)
    assert len(api.events) == 2


async def test_connections_that_others_can_read_are_reported() -> None:
    api = Server()
    router = Router(api)
    router.problems = {"mqtt-password": "mqtt_url: …", "postgres-tls": "database_url: …"}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    assert {event["reason"] for event in api.events} == {"PasswordExposed", "DatabaseExposed"}
    assert any("mqtt_url: …" in event["message"] for event in api.events)


async def test_a_problem_that_returns_is_reported_again() -> None:
    api = Server()
    router = Router(api)
    for _ in range(2):
        router.problems = {"postgres": "PostgreSQL does not answer"}
        await router.after(1)
        await router.after(PATIENCE_SECONDS)
        router.problems = {}
        await router.after(1)
    assert [event["reason"] for event in api.events] == ["DatabaseUnreachable"] * 2


async def test_it_is_about_the_pod_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "galactic-router-0")
    monkeypatch.setenv("POD_UID", "of-the-pod")
    api = Server(lease=False)
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    about = api.events[0]["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("Pod", "galactic-router-0", "of-the-pod")


async def test_an_event_that_fails_is_sent_at_the_next_poll() -> None:
    api = Server()
    api.away = True
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    api.away = False
    await router.after(1)
    assert len(api.events) == 1


async def test_without_pod_and_lease_there_is_no_event() -> None:
    api = Server(lease=False)
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    assert not api.events
