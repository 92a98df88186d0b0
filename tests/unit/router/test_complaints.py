"""What a router lacks is an Event on what `kubectl describe` shows: once, and again before it is forgotten."""

from collections.abc import Mapping
from typing import Any

import pytest

from galactic.errors import Unreachable
from galactic.kube.api import Object
from galactic.kube.resources import Resource
from galactic.router.kubernetes.router_events import PATIENCE_SECONDS, REPEAT_SECONDS, RouterEvents

WRONG = "the broker refused the connection: Not authorized; check mqtt_username and mqtt_password"


class Api:
    """A Lease, if there is one, and the Events that were made."""

    def __init__(self, lease: bool = True) -> None:
        self.lease, self.events, self.away = lease, [], False

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        assert (resource.kind, name) == ("Lease", "galactic-router")
        return {"metadata": {"uid": "of-the-lease"}} if self.lease else None

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        if self.away:
            raise Unreachable("kube-apiserver", "away")
        assert namespace == body["involvedObject"]["namespace"]
        self.events.append(body)
        return dict(body)


class Router:
    """Its problems, and a clock."""

    def __init__(self, api: Api) -> None:
        self.problems: dict[str, str] = {}
        self.at = 1000.0
        self.complaints = RouterEvents(api, lambda: self.problems, lambda: self.at)

    async def after(self, seconds: float) -> None:
        self.at += seconds
        await self.complaints.poll()


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "net")
    for name in ("POD_NAME", "POD_UID"):
        monkeypatch.delenv(name, raising=False)


async def test_it_is_told_when_it_stays_and_again_when_it_lasts() -> None:
    api = Api()
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


async def test_what_comes_back_is_told_anew() -> None:
    api = Api()
    router = Router(api)
    for _ in range(2):
        router.problems = {"postgres": "PostgreSQL does not answer"}
        await router.after(1)
        await router.after(PATIENCE_SECONDS)
        router.problems = {}
        await router.after(1)
    assert [each["reason"] for each in api.events] == ["DatabaseUnreachable"] * 2


async def test_it_is_about_the_pod_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "galactic-router-0")
    monkeypatch.setenv("POD_UID", "of-the-pod")
    api = Api(lease=False)
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    about = api.events[0]["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("Pod", "galactic-router-0", "of-the-pod")


async def test_an_event_that_is_not_taken_is_told_at_the_next_look() -> None:
    api = Api()
    api.away = True
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    api.away = False
    await router.after(1)
    assert len(api.events) == 1


async def test_where_there_is_neither_pod_nor_lease_nothing_is_told() -> None:
    api = Api(lease=False)
    router = Router(api)
    router.problems = {"mqtt": WRONG}
    await router.after(0)
    await router.after(PATIENCE_SECONDS)
    assert not api.events
