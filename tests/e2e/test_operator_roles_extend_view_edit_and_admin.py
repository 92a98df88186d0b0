"""Users with role view, edit or admin in a namespace have the same rights to its VPCs and attachments, and none to a
status.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from story import eventually, fresh

from galactic_lab.cluster import Lab

ROLES = Path(__file__).resolve().parents[2] / "charts/galactic/templates/clusterroles-users.yaml"
NAMESPACE = "operator-roles"


@pytest.fixture(scope="module")
def people(control_plane: Lab) -> Iterator[Lab]:
    """Users named after the role that they have in the namespace."""
    control_plane.kubectl("apply", "-f", str(ROLES))
    fresh(control_plane, NAMESPACE)
    for role in ("view", "edit", "admin"):
        control_plane.kubectl(
            "create", "rolebinding", role, "-n", NAMESPACE, f"--clusterrole={role}", f"--user={role}"
        )
    yield control_plane
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def may(lab: Lab, user: str, verb: str, what: str, *more: str, namespace: str = NAMESPACE) -> bool:
    ask = ("auth", "can-i", verb, what, "-n", namespace, f"--as={user}", *more)
    answer = eventually("an answer", lambda: lab.kubectl(*ask, check=False).strip())
    return bool(answer == "yes")


@pytest.mark.parametrize("what", ["vpcs", "vpcattachments"])
@pytest.mark.parametrize("user", ["view", "edit", "admin"])
def test_may(people: Lab, user: str, what: str) -> None:
    group = "galactic.datumapis.com"
    eventually(f"{user} sees {what}", lambda: may(people, user, "list", f"{what}.{group}"))
    writes = user != "view"
    if writes:
        eventually(f"{user} writes {what}", lambda: may(people, user, "create", f"{what}.{group}"))
    for verb in ("create", "patch", "delete"):
        assert may(people, user, verb, f"{what}.{group}") is writes
    assert not may(people, user, "patch", f"{what}.{group}", "--subresource=status")
    assert not may(people, user, "patch", f"nodesegments.{group}")
    assert not may(people, user, "list", f"{what}.{group}", namespace="default")
