"""An attachment's status is written once, in whichever order the API server's answer and its events arrive."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.router.kubernetes.record import AttachmentRecord, RecordedEndpoint
from galactic.router.kubernetes.status_writer import StatusWriter
from galactic.router.metrics import RouterMetrics

NAME = "ns/a1"
OWN = 12
"""The resource version of our write."""
ENDPOINT = RecordedEndpoint("default", "n1", "2001:db8::1", ("10.1.1.1/32",), 1, 1, "")
OTHER = RecordedEndpoint("default", "n9", "2001:db8::9", ("10.1.1.1/32",), 1, 1, "")
STALE, OURS, FOREIGN = (11, ENDPOINT), (OWN, None), (13, OTHER)
"""Events: a resource version, and the endpoint then. The attachment has left its node: no endpoint is desired."""


class Cluster:
    """One attachment as the watch shows it, a table without paths, and an API server that answers on request."""

    def __init__(self) -> None:
        self.writer = StatusWriter(self, self, self, self, RouterMetrics(CollectorRegistry()))
        self.patches, self.answered, self.version = 0, asyncio.Event(), OWN
        self.endpoint: RecordedEndpoint | None = ENDPOINT

    async def patch(self, resource, *_args, **_options):
        assert resource is VPC_ATTACHMENTS
        self.patches += 1
        await self.answered.wait()
        version, self.version = self.version, self.version + 2
        return {"metadata": {"resourceVersion": str(version)}}

    def record(self, name):
        assert name == NAME
        return AttachmentRecord("u", ("ns", "blue"), 1, None, self.endpoint, "")

    def identity(self, _name):
        return None

    def best_path(self, _attachment):
        return None

    def conflicts(self, _path):
        return []

    def revision(self, _vpc):
        return 1

    def event(self, version: int, endpoint: RecordedEndpoint | None) -> None:
        self.endpoint = endpoint
        self.writer.observed(NAME, str(version))


@pytest.mark.parametrize(
    ("before", "after", "patches"),
    [
        pytest.param([], [OURS], 1, id="the-answer-first"),
        pytest.param([OURS], [], 1, id="the-event-first"),
        pytest.param([STALE], [OURS], 1, id="an-event-of-before-while-it-is-written"),
        pytest.param([], [STALE, OURS], 1, id="an-event-of-before-after-the-answer"),
        pytest.param([STALE, OURS], [], 1, id="both-events-first"),
        pytest.param([], [OURS, FOREIGN], 2, id="another-client-writes-afterwards"),
        pytest.param([], [FOREIGN], 2, id="the-watch-skips-ours"),
        pytest.param([OURS, FOREIGN], [], 2, id="another-client-writes-before-the-answer"),
        pytest.param([FOREIGN], [], 2, id="the-watch-skips-ours-before-the-answer"),
    ],
)
async def test_one_write_for_each_difference(
    before: Sequence[tuple[int, RecordedEndpoint | None]],
    after: Sequence[tuple[int, RecordedEndpoint | None]],
    patches: int,
) -> None:
    cluster = Cluster()
    running = asyncio.create_task(cluster.writer.run())
    cluster.writer.lead([NAME])
    await settled()
    for event in before:
        cluster.event(*event)
        await settled()
    assert cluster.patches == 1, "while it is written nothing is written beside it"
    cluster.answered.set()
    await settled()
    for event in after:
        cluster.event(*event)
        await settled()
    running.cancel()
    assert cluster.patches == patches


async def test_a_deleted_attachment_is_forgotten() -> None:
    """Another of its name has resource versions of its own history."""
    cluster = Cluster()
    running = asyncio.create_task(cluster.writer.run())
    cluster.answered.set()
    cluster.writer.lead([NAME])
    await settled()
    cluster.writer.observed(NAME, "")
    await settled()
    running.cancel()
    assert cluster.patches == 2, "the watch still shows an endpoint"


async def test_a_restored_api_server_is_believed() -> None:
    """Its resource versions are lower than before, and its objects are as they were."""
    cluster = Cluster()
    running = asyncio.create_task(cluster.writer.run())
    cluster.answered.set()
    cluster.writer.lead([NAME])
    await settled()
    cluster.writer.disconnected()
    cluster.event(*STALE)
    await settled()
    running.cancel()
    assert cluster.patches == 2


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
