"""The webhooks' certificates change under load and no request fails; while the webhooks are away nothing is stuck."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apiserver import Server
from cryptography import x509
from story import API, eventually

from galactic.errors import Rejected
from galactic.kube.certificates import Lifetime, renewed
from galactic.webhook.configuration import ClientConfig
from galactic_lab.cleanup import MARK
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.controllers import settings
from galactic_lab.controlplane.credentials import ADMIN
from galactic_lab.places import HELD_UP, HELD_UP_SECONDS
from galactic_lab.state import CONTROL, State, interpreter

SECONDS = 600
LIFETIME = Lifetime(timedelta(minutes=2))
"""Each step of a change takes a twelfth of it, 10 s. A story that is held up for longer awaits the next change."""
PAUSE_SECONDS = 0.1
"""Between two requests: over one connection, as a process for each would take a processor for the whole story."""
STEPS = [(2, False), (2, True), (1, True)]
"""Of a change: CAs that are trusted, and whether the newest one's certificate is served."""
NAME = "galactic-hasty"
PORT = 9553
URL = f"https://[{CONTROL}]:{PORT}"


def vpc(name: str, namespace: str) -> str:
    meta = {"name": name, "namespace": namespace}
    return json.dumps(
        {"apiVersion": API, "kind": "VPC", "metadata": meta, "spec": {"networks": ["10.1.1.0/24"]}}
    )


def hasty(state: State) -> dict[str, str]:
    """A second webhook server, with configurations and certificates of its own that live for minutes.

    An administrator's: the webhooks' own rights are for objects of the name that the chart gives them.
    """
    return settings(state, "galactic-webhook") | {
        "KUBECONFIG": str(state.identity(ADMIN)),
        "GALACTIC_WEBHOOK_NAME": NAME,
        "GALACTIC_PORT": str(PORT),
        "GALACTIC_WEBHOOK_URL": URL,
        "GALACTIC_METRICS_PORT": "0",
        "GALACTIC_CERTIFICATE_HOURS": str(LIFETIME.total / timedelta(hours=1)),
        MARK: state.name,
    }


def aged() -> dict[str, Any]:
    """The Secret of such a server as somebody left it whose CA is due for a successor by now."""
    client_config = ClientConfig("galactic-system", NAME, URL)
    bundle = renewed(None, client_config.names, LIFETIME, datetime.now(UTC) - LIFETIME.renewal)
    data = {key: base64.b64encode(value).decode() for key, value in bundle.data().items()}
    meta = {"name": NAME, "namespace": "galactic-system"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def step(server: Server) -> tuple[int, bool]:
    """How many CAs are trusted, and whether the newest one's certificate is served."""
    data = server.get(f"/api/v1/namespaces/galactic-system/secrets/{NAME}")["data"]
    newest, *older = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
    serving = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    return 1 + len(older), serving.issuer == newest.subject


def admitted(api: Server, thing: dict[str, Any]) -> None:
    """The API server would create the object. A request that was held up is sent again; no other may fail."""
    until = time.monotonic() + HELD_UP_SECONDS
    while problem := api.dry_run(thing):
        assert HELD_UP.search(problem), problem
        assert time.monotonic() < until, problem


def test_no_request_fails_while_certificates_change(
    control_plane: Lab, spaces: Callable[..., tuple[str, ...]]
) -> None:
    lab = control_plane
    (namespace,) = spaces("rotating")
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(aged()))
    variables = [f"{key}={value}" for key, value in hasty(lab.state).items()]
    server = lab.popen(
        "control",
        ["env", *variables, *interpreter(), "-m", "galactic.webhook"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(
            "the second server is asked",
            lambda: lab.kubectl("get", "validatingwebhookconfiguration", NAME, "-o", "name", check=False),
        )
        api, thing = Server(lab.kubeconfig, patience=0), json.loads(vpc("x", namespace))
        steps: list[tuple[int, bool]] = []
        until = time.monotonic() + SECONDS
        while steps[-3:] != STEPS and time.monotonic() < until:
            admitted(api, thing)
            if (now := step(api)) not in steps[-1:]:
                steps.append(now)
            time.sleep(PAUSE_SECONDS)
        assert steps[-3:] == STEPS, f"the certificates did not change: {steps}"
    finally:
        for kind in ("validatingwebhookconfiguration", "mutatingwebhookconfiguration"):
            lab.kubectl("delete", kind, NAME, "--ignore-not-found")
        server.terminate()
        server.wait(120)
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
        lab.kubectl("delete", "vpc", "blue", "-n", namespace, "--timeout=400s")
        container = {"name": "main", "image": "nicolaka/netshoot:v0.13"}
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
