"""Who may read a controller's metrics: the API server's answers, how long they are kept, and what a flood costs."""

import asyncio
from typing import Any

import pytest
from clockwork import SetClock
from waits import until

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.kube import token_access
from galactic.kube.token_access import MOST_KEPT, MOST_REVIEWS, TokenAccess

PROMETHEUS = "system:serviceaccount:monitoring:prometheus"


class ApiServer:
    """``users``: by token. ``readers``: who may get the path."""

    def __init__(self) -> None:
        self.users = {"t-prometheus": PROMETHEUS, "t-tenant": "tenant"}
        self.readers = {PROMETHEUS}
        self.reviews: list[dict[str, Any]] = []
        self.away = False
        self.held: asyncio.Event | None = None

    async def create(self, resource: Any, body: Any, namespace: str | None = None) -> dict[str, Any]:
        self.reviews.append(dict(body))
        if self.held:
            await self.held.wait()
        if self.away:
            raise Unreachable("kube-apiserver", "connection refused")
        spec = body["spec"]
        if resource.kind == "TokenReview":
            user = self.users.get(spec["token"])
            groups = {"username": user, "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}
            return {"status": {"authenticated": True, "user": groups} if user else {"error": "no"}}
        asked = spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
        return {"status": {"allowed": asked and spec["user"] in self.readers}}


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def access(server: ApiServer, clock: SetClock) -> TokenAccess:
    return TokenAccess(server, clock)


async def answer(access: TokenAccess, token: str, path: str = "/metrics") -> str:
    try:
        await access.check(token, path)
    except (Rejected, NotYet) as error:
        return error.reason
    return "allowed"


@pytest.mark.parametrize(
    ("token", "path", "expected"),
    [
        pytest.param("t-prometheus", "/metrics", "allowed", id="a-reader"),
        pytest.param("t-tenant", "/metrics", "Forbidden", id="another-user"),
        pytest.param("t-prometheus", "/debug", "Forbidden", id="another-path"),
        pytest.param("made-up", "/metrics", "Unauthenticated", id="no-token-of-the-cluster"),
    ],
)
async def test_the_api_server_decides(access: TokenAccess, token: str, path: str, expected: str) -> None:
    assert await answer(access, token, path) == expected
    assert await answer(access, token, path) == expected


async def test_the_whole_user_is_reviewed(access: TokenAccess, server: ApiServer) -> None:
    await access.check("t-prometheus", "/metrics")
    assert server.reviews[1]["spec"] == {
        "user": PROMETHEUS,
        "uid": "7",
        "groups": ["g"],
        "extra": {"k": ["v"]},
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }


async def test_a_refusal_names_the_user_and_the_remedy(access: TokenAccess) -> None:
    with pytest.raises(Rejected, match="tenant may not get /metrics: bind a ClusterRole"):
        await access.check("t-tenant", "/metrics")


async def test_an_answer_is_kept_for_a_while(access: TokenAccess, server: ApiServer, clock: SetClock) -> None:
    for _ in range(3):
        await access.check("t-prometheus", "/metrics")
    assert len(server.reviews) == 2
    server.readers.clear()
    clock.now = token_access.ALLOWED_SECONDS
    assert await answer(access, "t-prometheus") == "Forbidden"
    server.readers.add(PROMETHEUS)
    clock.now += token_access.REFUSED_SECONDS
    assert await answer(access, "t-prometheus") == "allowed"


async def test_what_could_not_be_asked_is_no_answer(access: TokenAccess, server: ApiServer) -> None:
    server.away = True
    with pytest.raises(Unreachable):
        await access.check("t-prometheus", "/metrics")
    server.away = False
    assert await answer(access, "t-prometheus") == "allowed"


async def test_a_flood_of_unknown_tokens_keeps_no_reader_out(
    access: TokenAccess, server: ApiServer, clock: SetClock
) -> None:
    await access.check("t-prometheus", "/metrics")
    clock.now = token_access.ALLOWED_SECONDS  # Prometheus is reviewed again
    server.reviews.clear()
    server.held = asyncio.Event()
    flood = [asyncio.create_task(answer(access, f"made-up-{number}")) for number in range(100)]
    await until(lambda: len(server.reviews) == MOST_REVIEWS)
    reader = asyncio.create_task(answer(access, "t-prometheus"))
    await until(lambda: len(server.reviews) == MOST_REVIEWS + 1)
    server.held.set()
    assert await reader == "allowed"
    answers = await asyncio.gather(*flood)
    assert answers.count("Busy") == 100 - MOST_REVIEWS


async def test_many_answers_forget_no_reader(access: TokenAccess, server: ApiServer) -> None:
    await access.check("t-prometheus", "/metrics")
    for number in range(2 * MOST_KEPT):
        assert await answer(access, f"made-up-{number}") == "Unauthenticated"
    server.reviews.clear()
    assert await answer(access, "t-prometheus") == "allowed"
    assert not server.reviews
    assert len(access._answers) == MOST_KEPT
