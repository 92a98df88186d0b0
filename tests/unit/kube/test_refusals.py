"""Refusals of the API server as Galactic's errors."""

import json

import pytest

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.kube.api import Conflict, Expired, NotFound, Terminating
from galactic.kube.client import _refusal

GOING = {"details": {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}}


@pytest.mark.parametrize(
    ("status", "reply", "kind", "reason"),
    [
        pytest.param(404, {"message": "gone"}, NotFound, "NotFound", id="not-found"),
        pytest.param(409, {"reason": "AlreadyExists"}, Conflict, "AlreadyExists", id="conflict"),
        pytest.param(410, {"message": "too old"}, Expired, None, id="expired"),
        pytest.param(403, {"reason": "Forbidden"}, Rejected, "Forbidden", id="forbidden"),
        pytest.param(
            403, {"reason": "Forbidden"} | GOING, Terminating, "NamespaceTerminating", id="namespace-goes"
        ),
        pytest.param(403, {"reason": "Forbidden", "details": "?"}, Rejected, "HTTP403", id="strange-details"),
        pytest.param(422, {"reason": "Invalid"} | GOING, Rejected, "Invalid", id="another-status"),
        pytest.param(403, "no JSON object", Rejected, "HTTP403", id="a-proxys"),
        pytest.param(429, {"message": "slow"}, Unreachable, None, id="too-many-requests"),
        pytest.param(
            429,
            {"message": "no", "details": {"causes": [{"reason": "DisruptionBudget"}]}},
            NotYet,
            "DisruptionBudget",
            id="a-disruption-budget",
        ),
        pytest.param(500, {"message": "etcd"}, Unreachable, None, id="its-own-trouble"),
    ],
)
def test_a_refusal_is_one_of_our_errors(status, reply, kind, reason):
    error = _refusal(status, json.dumps(reply))
    assert type(error) is kind
    assert reason is None or error.reason == reason
