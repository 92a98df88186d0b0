"""The webhooks' certificates change under load and no request fails; while the webhooks are away nothing is stuck."""

import json
import subprocess
import time
from collections.abc import Callable

import pytest
from story import API, eventually

from galactic.errors import Rejected
from galactic.lab.cleanup import MARK
from galactic.lab.cluster import Lab
from galactic.lab.controllers import settings
from galactic.lab.credentials import ADMIN
from galactic.lab.state import CONTROL, State, interpreter

SECONDS = 120
CERTIFICATES = 3
"""Two changes are seen while requests go on; each request that failed would have ended the test."""
LIFETIME_SECONDS = 12
NAME = "galactic-hasty"
PORT = 9553


def vpc(name: str, namespace: str) -> str:
    meta = {"name": name, "namespace": namespace}
    return json.dumps(
        {"apiVersion": API, "kind": "VPC", "metadata": meta, "spec": {"networks": ["10.1.1.0/24"]}}
    )


def hasty(state: State) -> dict[str, str]:
    """A second webhook server, with configurations and certificates of its own that live for seconds.

    An administrator's: the webhooks' own rights are for objects of the name that the chart gives them.
    """
    return settings(state, "galactic-webhook") | {
        "KUBECONFIG": str(state.identity(ADMIN)),
        "GALACTIC_NAME": NAME,
        "GALACTIC_PORT": str(PORT),
        "GALACTIC_URL": f"https://[{CONTROL}]:{PORT}",
        "GALACTIC_METRICS_PORT": "0",
        "GALACTIC_CERTIFICATE_HOURS": str(LIFETIME_SECONDS / 3600),
        MARK: state.name,
    }


def test_no_request_fails_while_certificates_change(
    control_plane: Lab, spaces: Callable[..., tuple[str, ...]]
) -> None:
    lab = control_plane
    (namespace,) = spaces("rotating")
    variables = [f"{key}={value}" for key, value in hasty(lab.state).items()]
    server = lab.popen(
        "control",
        ["env", *variables, *interpreter(), "-m", "galactic.operator.admission"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(
            "the second server is asked",
            lambda: lab.kubectl("get", "validatingwebhookconfiguration", NAME, "-o", "name", check=False),
        )
        served: set[str] = set()
        until = time.monotonic() + SECONDS
        while len(served) < CERTIFICATES and time.monotonic() < until:
            lab.kubectl(
                "create", "--dry-run=server", "-f", "-", stdin=vpc("x", namespace)
            )  # raises if it fails
            secret = lab.get("secret", NAME, "-n", "galactic-system")
            served.add(secret["data"]["tls.crt"])
        assert len(served) >= CERTIFICATES, "the certificate did not change"
    finally:
        for kind in ("validatingwebhookconfiguration", "mutatingwebhookconfiguration"):
            lab.kubectl("delete", kind, NAME, "--ignore-not-found")
        server.terminate()
        server.wait(20)
        # It may have been about to write them once more.
        for kind in ("validatingwebhookconfiguration", "mutatingwebhookconfiguration"):
            lab.kubectl("delete", kind, NAME, "--ignore-not-found")
        lab.kubectl("delete", "secret", NAME, "-n", "galactic-system", "--ignore-not-found")


def test_while_they_are_away(control_plane: Lab, spaces: Callable[..., tuple[str, ...]]) -> None:
    lab = control_plane
    namespace, aside = spaces("away", "away-aside")
    lab.kubectl("label", "namespace", aside, "galactic.datumapis.com/admission=ignore")
    lab.kubectl("create", "-f", "-", stdin=vpc("blue", namespace))
    lab.supervisor.stop("webhook")
    try:
        with pytest.raises(Rejected, match="failed calling webhook"):
            lab.kubectl("create", "-f", "-", stdin=vpc("green", namespace))
        # What goes may go, and a namespace that was set aside does not depend on them.
        lab.kubectl("delete", "vpc", "blue", "-n", namespace, "--timeout=30s")
        container = {"name": "main", "image": "nicolaka/netshoot"}
        pod = {"metadata": {"name": "plain", "namespace": aside}, "spec": {"containers": [container]}}
        lab.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))
    finally:
        lab.supervisor.start("webhook")
    eventually("they answer again", lambda: _created(lab, vpc("green", namespace)))


def _created(lab: Lab, manifest: str) -> bool:
    try:
        lab.kubectl("create", "-f", "-", stdin=manifest)
    except Rejected:
        return False
    return True
