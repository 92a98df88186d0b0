"""The connectivity test outlasts an API server, or a webhook, that does not answer for seconds."""

from typing import Any

import pytest

from galactic.cli import connectivity
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.kube.api import Conflict
from galactic.kube.resources import NAMESPACES, PODS

SILENT = Unreachable("kube-apiserver", "context deadline exceeded")
THERE = Conflict("it exists", reason="AlreadyExists")
BODY = {"kind": "Pod", "metadata": {"name": "web"}}


class Server:
    """Answers each request with the next error or a success."""

    def __init__(self, *answers: GalacticError | None) -> None:
        self.answers = iter(answers)
        self.asked = 0

    async def create(self, *_: Any) -> None:
        self._answer()

    async def delete(self, *_: Any, **__: Any) -> None:
        self._answer()

    async def find(self, *_: Any) -> None:
        self._answer()

    async def list(self, *_: Any) -> tuple[list[Any], str]:
        self._answer()
        return [], ""

    def _answer(self) -> None:
        self.asked += 1
        if (answer := next(self.answers)) is not None:
            raise answer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connectivity, "POLL_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("answers", "refusals"),
    [
        pytest.param((None,), Unreachable, id="at-once"),
        pytest.param((SILENT, None), Unreachable, id="the-second-time"),
        pytest.param((SILENT, THERE), Unreachable, id="the-first-time-after-all"),
        pytest.param((Rejected("not ready"), None), GalacticError, id="what-is-refused-until-later"),
    ],
)
async def test_made(answers: tuple[GalacticError | None, ...], refusals: type[GalacticError]) -> None:
    server = Server(*answers)
    await connectivity._create(server, PODS, BODY, "a", 300.0, refusals=refusals)  # type: ignore[arg-type]
    assert server.asked == len(answers)


async def test_a_permanent_refusal_is_raised_unchanged() -> None:
    with pytest.raises(Rejected, match="forbidden"):
        await connectivity._create(Server(Rejected("forbidden")), PODS, BODY, "a", 300.0)  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        await connectivity._create(Server(THERE), NAMESPACES, BODY, None, 300.0)  # type: ignore[arg-type]


async def test_patience_ends_with_the_name_of_what_was_not_made() -> None:
    with pytest.raises(Unreachable, match=r"Pod web: .*deadline exceeded"):
        await connectivity._create(Server(SILENT), PODS, BODY, "a", 0.0)  # type: ignore[arg-type]


async def test_what_was_made_is_removed_all_the_same() -> None:
    server = Server(None, SILENT, None, SILENT, None)
    await connectivity._remove(server, "a")  # type: ignore[arg-type]
    assert server.asked == 5
