"""The webhooks' certificates change under load and no request fails; while the webhooks are away nothing is stuck."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from apiserver import Server
from cryptography import x509
from story import API, CONFIGURATIONS, configurations, eventually

from galactic.errors import Rejected
from galactic.kube.certificates import Lifetime, renewed
from galactic.names import ATTACHMENT_ANNOTATION, VPC_ANNOTATION
from galactic.webhook.configuration import Address
from galactic_lab.cleanup import MARK
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.controllers import settings
from galactic_lab.controlplane.credentials import ADMIN
from galactic_lab.places import HELD_UP, HELD_UP_SECONDS
from galactic_lab.state import CONTROL, State, interpreter

SECONDS = 600
LIFETIME = Lifetime(timedelta(minutes=2))
"""Each step of a change takes a twelfth of it, 10 s. A slower story waits for the next change."""
PAUSE_SECONDS = 0.1
"""Between two requests: over one connection, as a process for each would take a processor for the whole story."""
STEPS = [(2, False), (2, True), (1, True)]
"""Of a change: CAs that are trusted, and whether the newest one's certificate is served."""
NAME = "galactic-hasty"
PORT = 9553
FINALIZER = "batch.kubernetes.io/job-tracking"
"""The Job controller takes it off a pod that has ended, and counts the pod."""
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
        "GALACTIC_CONFIGURATION_NAME": NAME,
        "GALACTIC_PORT": str(PORT),
        "GALACTIC_WEBHOOK_URL": URL,
        "GALACTIC_METRICS_PORT": "0",
        "GALACTIC_CERTIFICATE_HOURS": str(LIFETIME.total / timedelta(hours=1)),
        MARK: state.name,
    }


def aged() -> dict[str, Any]:
    """The Secret of such a server, with a CA that is due for renewal."""
    address = Address("galactic-system", NAME, URL)
    bundle = renewed(None, address.names, LIFETIME, datetime.now(UTC) - LIFETIME.renewal)
    data = {key: base64.b64encode(value).decode() for key, value in bundle.data().items()}
    meta = {"name": NAME, "namespace": "galactic-system"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def step(server: Server) -> tuple[int, bool]:
    """The number of trusted CAs, and whether the newest one's certificate is served."""
    data = server.get(f"/api/v1/namespaces/galactic-system/secrets/{NAME}")["data"]
    newest, *older = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
    serving = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    return 1 + len(older), serving.issuer == newest.subject


def admitted(api: Server, thing: dict[str, Any]) -> None:
    """The API server would create the object. A request that timed out is sent again; no other may fail."""
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
    hooks = [configuration for configuration in yaml.safe_load_all(configurations(lab)) if configuration]
    for configuration in hooks:
        configuration["metadata"]["name"] = NAME
        for webhook in configuration["webhooks"]:
            path = webhook["clientConfig"]["url"].rpartition("/")[2]
            webhook["clientConfig"]["url"] = f"{URL}/{path}"
    variables = [f"{key}={value}" for key, value in hasty(lab.state).items()]
    server = lab.popen(
        "control",
        ["env", *variables, *interpreter(), "-m", "galactic.webhook"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lab.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": hooks})
        )
        api, thing = Server(lab.kubeconfig, patience=0), json.loads(vpc("x", namespace))
        eventually("the second server is trusted", lambda: not api.dry_run(thing))
        steps: list[tuple[int, bool]] = []
        until = time.monotonic() + SECONDS
        while steps[-3:] != STEPS and time.monotonic() < until:
            admitted(api, thing)
            if (now := step(api)) not in steps[-1:]:
                steps.append(now)
            time.sleep(PAUSE_SECONDS)
        assert steps[-3:] == STEPS, f"the certificates did not change: {steps}"
    finally:
        lab.kubectl("delete", CONFIGURATIONS, NAME, "--ignore-not-found")
        server.terminate()
        server.wait(120)
        lab.kubectl("delete", "secret", NAME, "-n", "galactic-system", "--ignore-not-found")


def test_while_they_are_away(control_plane: Lab, spaces: Callable[..., tuple[str, ...]]) -> None:
    lab = control_plane
    namespace, aside = spaces("away", "away-aside")
    lab.kubectl("label", "namespace", aside, "galactic.datumapis.com/admission=ignore")
    lab.kubectl("create", "-f", "-", stdin=vpc("blue", namespace))
    lab.kubectl("create", "-f", "-", stdin=vpc("jobs", namespace))
    lab.kubectl("create", "-f", "-", stdin=json.dumps(job("done", namespace)))
    worker = str(eventually("the Job has its pod", lambda: made(lab, namespace)))
    lab.supervisor.stop("webhook")
    try:
        with pytest.raises(Rejected, match="failed calling webhook"):
            lab.kubectl("create", "-f", "-", stdin=vpc("green", namespace))
        # What goes may go, and a namespace that was set aside does not depend on them.
        lab.kubectl("delete", "vpc", "blue", "-n", namespace, "--timeout=400s")
        container = {"name": "main", "image": "nicolaka/netshoot:v0.13"}
        pod = {"metadata": {"name": "plain", "namespace": aside}, "spec": {"containers": [container]}}
        lab.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))
        # A pod may be changed, but for the annotations that have taken effect; a Job gets its finalizer off it.
        lab.kubectl("label", "pod", worker, "-n", namespace, "a=b")
        lab.kubectl("annotate", "pod", worker, "-n", namespace, "a=b")
        for name in (ATTACHMENT_ANNOTATION, VPC_ANNOTATION):
            with pytest.raises(Rejected, match="failed calling webhook"):
                lab.kubectl("annotate", "--overwrite", "pod", worker, "-n", namespace, f"{name}=other")
        assert FINALIZER in finalizers(lab, namespace, worker)
        succeeded = json.dumps({"status": {"phase": "Succeeded"}})
        status = ("-n", namespace, "--subresource=status", "--type=merge", "-p", succeeded)
        lab.kubectl("patch", "pod", worker, *status)
        complete = ("--for=condition=Complete", "job/done", "--timeout=120s")
        lab.kubectl("wait", *complete, "-n", namespace)
        assert FINALIZER not in finalizers(lab, namespace, worker)
        lab.kubectl("delete", "job", "done", "-n", namespace, "--timeout=120s")
        eventually("the pod goes with its Job", lambda: not made(lab, namespace))
    finally:
        lab.supervisor.start("webhook")
    eventually("they answer again", lambda: _created(lab, vpc("green", namespace)))


def job(name: str, namespace: str) -> dict[str, Any]:
    """A Job whose pod gets an attachment of its own in the VPC ``jobs``."""
    template = {
        "metadata": {"annotations": {VPC_ANNOTATION: "jobs"}},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"none": "such"},
            "containers": [{"name": "main", "image": "nicolaka/netshoot:v0.13"}],
        },
    }
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template}}


def made(lab: Lab, namespace: str) -> str:
    """The name of the Job's pod, if there is one."""
    return lab.kubectl(
        "get", "pods", "-n", namespace, "-l", "job-name=done", "-o", "jsonpath={.items[*].metadata.name}"
    )


def finalizers(lab: Lab, namespace: str, pod: str) -> list[str]:
    return list(lab.get("pod", pod, "-n", namespace)["metadata"].get("finalizers", ()))


def _created(lab: Lab, manifest: str) -> bool:
    try:
        lab.kubectl("create", "-f", "-", stdin=manifest)
    except Rejected:
        return False
    return True
