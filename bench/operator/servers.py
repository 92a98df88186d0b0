"""An API server and its etcd for one measurement, on free ports of this machine, gone afterwards."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from galactic.kube.api import Conflict, NotFound
from galactic.kube.client import Kube
from galactic.kube.resources import NADS, NODE_SEGMENTS, VPC_ATTACHMENTS, VPCS, Resource
from galactic_lab import assets
from galactic_lab.controlplane import servers

CRDS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
START_SECONDS: Final = 90.0
ADMINISTRATOR: Final = "admin"
AUDITED: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection", "list"]},
        {"level": "None"},
    ],
}
"""The audit policy: writes and lists with their users, and no other reads."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(*argv: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process for as long as the block lasts; its id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=os.environ | (environment or {})
        )
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def api_server(users: Iterable[str] = ()) -> Iterator[Path]:
    """A folder with a ``kubeconfig`` for an administrator, while the servers run.

    With ``users`` it has a ``kubeconfig-USER`` for each as well, all of them administrators, and ``audit.log`` their
    writes and lists. ``etcd.pid`` and ``kube-apiserver.pid`` have the processes' ids, ``etcd.url`` etcd's address.
    """
    found = assets.find()
    # The servers end with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="galactic-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        users = [*users]
        _credentials(folder, users)
        url, peer, port = (
            f"http://127.0.0.1:{free_port()}",
            f"http://127.0.0.1:{free_port()}",
            free_port(),
        )
        etcd = [str(found.etcd), f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error"]
        etcd += [
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--quota-backend-bytes=8589934592",
        ]
        etcd += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", "--name=bench"]
        pid = stack.enter_context(running(*etcd, f"--initial-cluster=bench={peer}", log=folder / "etcd.log"))
        (folder / "etcd.pid").write_text(str(pid))
        (folder / "etcd.url").write_text(url)
        server = [str(found.apiserver), f"--etcd-servers={url}", "--bind-address=127.0.0.1"]
        server += [f"--secure-port={port}", "--service-cluster-ip-range=10.0.0.0/24", "--v=0"]
        server += [
            f"--tls-cert-file={folder / 'server.crt'}",
            f"--tls-private-key-file={folder / 'server.key'}",
        ]
        server += [f"--cert-dir={folder}", f"--token-auth-file={folder / 'tokens.csv'}"]
        server += ["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"]
        server += [f"--service-account-key-file={folder / 'server.crt'}"]
        server += [f"--service-account-signing-key-file={folder / 'server.key'}"]
        if users:
            (folder / "audit.json").write_text(json.dumps(AUDITED))
            server += [
                f"--audit-policy-file={folder / 'audit.json'}",
                f"--audit-log-path={folder / 'audit.log'}",
                "--audit-log-maxsize=100000",
            ]
        pid = stack.enter_context(running(*server, log=folder / "kube-apiserver.log"))
        (folder / "kube-apiserver.pid").write_text(str(pid))
        _kubeconfig(folder / "kubeconfig", port, ADMINISTRATOR)
        for user in users:
            _kubeconfig(folder / f"kubeconfig-{user}", port, user)
        _wait(folder, port)
        yield folder


def _credentials(folder: Path, users: Iterable[str]) -> None:
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    argv += ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.crt")]
    argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:kubernetes.default.svc"]
    subprocess.run(argv, check=True, capture_output=True)
    tokens = (f"{token(user)},{user},{user},system:masters\n" for user in (ADMINISTRATOR, *users))
    (folder / "tokens.csv").write_text("".join(tokens))


def token(user: str) -> str:
    """The user's bearer token."""
    return "bench" if user == ADMINISTRATOR else f"bench-{user}"


def _kubeconfig(path: Path, port: int, user: str) -> None:
    authority = str(path.parent / "server.crt")
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token(user)}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
        "current-context": "bench",
    }
    path.write_text(json.dumps(config))


def _wait(folder: Path, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    argv = ["curl", "-sS", "--cacert", str(folder / "server.crt"), "-H", "Authorization: Bearer bench"]
    while (
        subprocess.run(
            [*argv, f"https://127.0.0.1:{port}/readyz"], capture_output=True, text=True, check=False
        ).stdout
        != "ok"
    ):
        if time.monotonic() > deadline:
            log = (folder / "kube-apiserver.log").read_text().splitlines()
            raise SystemExit("the API server does not start:\n" + "\n".join(log[-20:]))
        time.sleep(0.2)


async def install(kube: Kube) -> None:
    """The kinds are served."""
    names = []
    for text in (servers.MULTUS.read_text(), servers.kinds()):
        for manifest in filter(None, yaml.safe_load_all(text)):
            names.append(manifest["metadata"]["name"])
            with suppress(Conflict):
                await kube.create(CRDS, manifest)
    for name in names:
        while not _established(await kube.get(CRDS, name)):  # noqa: ASYNC110 - no watch for a bench
            await asyncio.sleep(0.1)
    for resource in (VPCS, VPC_ATTACHMENTS, NODE_SEGMENTS, NADS):
        await _served(kube, resource)


def _established(definition: dict[str, Any]) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(
        condition["type"] == "Established" and condition["status"] == "True" for condition in conditions
    )


async def _served(kube: Kube, resource: Resource) -> None:
    """Waits for the path of the kind: the API server adds it some time after ``Established``."""
    while True:
        try:
            await kube.list(resource)
        except NotFound:
            await asyncio.sleep(0.1)
        else:
            return


def scraped(port: int) -> dict[str, float]:
    """A controller's /metrics: name with labels → value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }
