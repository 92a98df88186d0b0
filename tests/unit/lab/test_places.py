"""A request of kubectl is sent again where a server timed out; every other error is raised at once."""

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic_lab import places
from galactic_lab.assets import Assets
from galactic_lab.places import Places
from galactic_lab.state import State

LATE = "Unable to connect to the server: net/http: TLS handshake timeout"
ETCD = "Error from server: etcdserver: request timed out"
QUOTA = "Error from server (InternalError): Internal error occurred: resource quota evaluation timed out"
CLOSING = "error: failed to create configmap: rpc error: code = Unavailable desc = transport is closing"
WEBHOOK = (
    'Error from server (InternalError): Internal error occurred: failed calling webhook "vpcs.galactic": Post '
    '"https://[fd00::1]:9443/validate?timeout=5s": context deadline exceeded'
)
NOT_YET = (
    'Error from server: admission webhook "pods.galactic" denied the request: VPCAttachment a/b is not ready; '
    "`kubectl describe vpca` says what it waits for. A Deployment or other controller tries again by itself; a "
    "bare pod has to be applied again."
)
EXISTS = 'Error from server (AlreadyExists): namespaces "a" already exists'
MISSING = 'Error from server (NotFound): namespaces "a" not found'
REFUSED = 'Error from server: admission webhook "vpcs.galactic" denied the request: no'
AWAY = "The connection to the server localhost:8080 was refused - did you specify the right host or port?"


class Scripted(Places):
    """Kubectl complains about these things, one a try, and then does what it is asked."""

    def __init__(self, folder: Path, *complaints: str) -> None:
        super().__init__(State("none"))
        self._tries = folder / "tries"
        cases = [
            f"{number}) echo {shlex.quote(text)} >&2; exit 1;;" for number, text in enumerate(complaints, 1)
        ]
        program = folder / "kubectl"
        counted = f"echo >> {self._tries}\ncase $(wc -l < {self._tries}) in"
        program.write_text("\n".join(["#!/bin/sh", counted, *cases, "esac", "cat", ""]))
        program.chmod(0o755)
        made = {attribute.name: program for attribute in fields(Assets)} | {"version": (1, 20)}
        self._assets = Assets(**made)  # type: ignore[arg-type]

    @property
    def tries(self) -> int:
        return len(self._tries.read_text().splitlines())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("complaint", [LATE, ETCD, QUOTA, CLOSING, WEBHOOK, NOT_YET])
def test_who_was_held_up_is_asked_again_with_the_same(tmp_path: Path, complaint: str) -> None:
    lab = Scripted(tmp_path, complaint, complaint)
    assert lab.kubectl("apply", "-f", "-", stdin="manifest") == "manifest"
    assert lab.tries == 3


@pytest.mark.parametrize(("command", "complaint"), [("create", EXISTS), ("delete", MISSING)])
def test_what_the_first_try_did_is_no_failure_of_the_second(
    tmp_path: Path, command: str, complaint: str
) -> None:
    lab = Scripted(tmp_path, ETCD, complaint)
    lab.kubectl(command, "namespace", "a")
    assert lab.tries == 2


@pytest.mark.parametrize(
    ("command", "complaints"),
    [
        pytest.param("create", [EXISTS], id="made-by-others"),
        pytest.param("delete", [MISSING], id="never-there"),
        pytest.param("get", [LATE, MISSING], id="not-there"),
        pytest.param("apply", [REFUSED], id="refused"),
        pytest.param("apply", [WEBHOOK, REFUSED], id="refused-later"),
        pytest.param("get", [AWAY], id="nobody-there"),
    ],
)
def test_an_answer_is_an_answer(tmp_path: Path, command: str, complaints: list[str]) -> None:
    lab = Scripted(tmp_path, *complaints)
    with pytest.raises(Rejected) as raised:
        lab.kubectl(command, "namespace", "a")
    assert complaints[-1] in str(raised.value)
    assert lab.tries == len(complaints)


def test_it_is_not_asked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "HELD_UP_SECONDS", 0.0)
    lab = Scripted(tmp_path, LATE, LATE)
    with pytest.raises(Rejected, match="TLS handshake timeout"):
        lab.kubectl("get", "nodes")


def test_without_check_an_error_is_returned_at_once(tmp_path: Path) -> None:
    lab = Scripted(tmp_path, LATE)
    assert not lab.kubectl("get", "nodes", check=False)
    assert lab.tries == 1
