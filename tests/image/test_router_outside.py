"""A router outside of any cluster, as its examples start it: by systemd's unit and as a container, with the broker as
it is shipped, a database, and certificates of a CA that the host knows.
"""

import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside import BUNDLE, Outside, unit
from waiting import eventually


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    one = Outside(Path(tempfile.mkdtemp(prefix="galactic-outside-")))
    try:
        one.up()
        yield one
    finally:
        one.down()


def by_systemd(image, outside):
    """The unit's command: by an unprivileged user, without any capability, on a file system that is read-only."""
    given = unit("galactic-router.service")
    assert (given["DynamicUser"], given["ProtectSystem"]) == (["yes"], ["strict"])
    (command,) = given["ExecStart"]
    return started(image, outside, 61184, command, given)  # DynamicUser takes one of 61184 to 65519


def as_container(image, outside):
    given = unit("galactic-router.container")
    assert (given["ReadOnly"], given["DropCapability"], given["Network"]) == (["true"], ["all"], ["host"])
    (command,), (user,), (volume,) = (given[key] for key in ("Exec", "User", "Volume"))
    admissions = "/etc/galactic/admissions.yaml"
    assert volume.split(":")[:2] == [admissions, admissions]
    assert f"GALACTIC_ADMISSIONS={admissions}" in given["Environment"]
    return started(image, outside, int(user), command, given)


def started(image, outside, user, command, given):
    (secrets,) = given["EnvironmentFile"]
    lines = (outside.etc / Path(secrets.removeprefix("-")).relative_to("/etc")).read_text().splitlines()
    variables = dict(line.split("=", 1) for line in (*given["Environment"], *lines))
    mounts = {f"/etc/{name}": outside.etc / name for name in ("hosts", "galactic", BUNDLE)}
    container = image.container(user=user, mounts=mounts, memory=["/tmp"], enter=outside.enter[:2])
    return container.start(*shlex.split(command), **variables)


@pytest.mark.parametrize("way", [by_systemd, as_container])
def test_it_leads_and_keeps_a_history(image, outside, way):
    assert not outside.leader(2)
    router = way(image, outside)
    try:
        eventually(outside.leader, unless=router.alive)
        eventually(lambda: outside.health() == "ok", unless=router.alive)
        eventually(lambda: {"endpoint", "period"} <= outside.tables(), unless=router.alive)
    finally:
        code, output = router.end()
    assert code == 0, output
    assert "Traceback" not in output
    eventually(outside.forget)
    assert not outside.tables()
