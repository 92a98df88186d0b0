"""Keys, certificates, tokens and kubeconfigs of one lab, made once and then left alone."""

import csv
import json
import os
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from galactic_lab.controlplane import dns, rbac
from galactic_lab.state import State

ADMIN: Final = "admin"
MASTERS: Final = "system:masters"
WEBHOOK_CLIENT: Final = "kube-apiserver-webhook-client"
"""The API server's name as a client of webhooks."""
DAYS: Final = "3650"
KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class User(NamedTuple):
    """A user of the API server."""

    name: str
    groups: tuple[str, ...]


def users(state: State) -> dict[str, User]:
    """The users of the API server, by identity. Controllers have the chart's roles (``controlplane.rbac``)."""
    masters = [ADMIN, "kube-controller-manager", "kube-scheduler", "multus"]
    if state.chart:  # Galactic's own have ServiceAccounts
        masters.append(dns.USER)
        proxy = {"kube-proxy": User("system:kube-proxy", ())}
        return {name: User(name, (MASTERS,)) for name in masters} | _kubelets(state) | proxy
    accounts = {
        f"galactic-{component}": User(rbac.account(component), ("system:serviceaccounts", rbac.ACCOUNTS))
        for component in ("operator", "router", "webhook")
    }
    nodes = [f"galactic-node-{node.name}" for node in state.members]
    return (
        {name: User(name, (MASTERS,)) for name in masters}
        | _kubelets(state)
        | accounts
        | {name: User(name, (rbac.NODES,)) for name in nodes}
    )


def _kubelets(state: State) -> dict[str, User]:
    return {
        f"kubelet-{node.name}": User(f"system:node:{node.name}", ("system:nodes",)) for node in state.members
    }


def _openssl(*arguments: str, stdin: str = "") -> None:
    subprocess.run(["openssl", *arguments], input=stdin, check=True, capture_output=True, text=True)


def authority(stem: Path, name: str) -> None:
    """``stem``.crt, a CA's certificate, and ``stem``.key."""
    files = ("-keyout", f"{stem}.key", "-out", f"{stem}.crt")
    # keyUsage: RFC 5280 §4.2.1.3, which Python checks from 3.13 on.
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl("req", "-x509", *KEY, *files, *usage, "-days", DAYS, "-subj", f"/CN={name}")


def issue(folder: Path, stem: Path, name: str, hosts: Iterable[str], use: str = "serverAuth") -> None:
    """``stem``.crt, a server's certificate for ``hosts`` (DNS:…, IP:…) by the CA in ``folder``, and ``stem``.key.

    ``use``: clientAuth for a client's.
    """
    request, extensions = f"{stem}.csr", Path(f"{stem}.extensions")
    _openssl("req", *KEY, "-keyout", f"{stem}.key", "-out", request, "-subj", f"/CN={name}")
    extensions.write_text(
        f"subjectAltName={','.join(hosts)}\nextendedKeyUsage={use}\nbasicConstraints=CA:FALSE\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    sign = ("-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", DAYS)
    _openssl("x509", "-req", *sign, "-in", request, "-out", f"{stem}.crt", "-extfile", str(extensions))


def certificates(state: State, folder: Path) -> None:
    """``ca.crt``, ``server.crt`` signed by it, their ``.key`` files; for service accounts ``sa.key``, ``sa.pub``."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    old = os.umask(0o077)
    try:
        authority(folder / "ca", "galactic-lab")
        names = [
            "DNS:localhost",
            "DNS:kubernetes.default.svc",
            "IP:127.0.0.1",
            "IP:::1",
            f"IP:{state.control}",
        ]
        names.append("IP:fd00:fffe::1")  # the first address of the service range
        issue(folder, folder / "server", "kube-apiserver", names)
        _openssl("genrsa", "-out", str(folder / "sa.key"), "2048")
        _openssl("rsa", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub"))
        (folder / "complete").touch()
    finally:
        os.umask(old)


def webhook_client(folder: Path) -> None:
    """The API server's certificate as a client of webhooks, and the files by which it uses it for all of them."""
    stem = folder / WEBHOOK_CLIENT
    if not stem.with_suffix(".crt").exists():
        issue(folder, stem, WEBHOOK_CLIENT, [f"DNS:{WEBHOOK_CLIENT}"], use="clientAuth")
    user = {"client-certificate": f"{stem}.crt", "client-key": f"{stem}.key"}
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": user}]}
    (folder / "webhook-client.json").write_text(json.dumps(kubeconfig, indent=2) + "\n")
    webhooks = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(folder / "webhook-client.json"),
    }
    plugins = [
        {"name": name, "configuration": webhooks}
        for name in ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
    ]
    admission = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": plugins,
    }
    (folder / "admission.json").write_text(json.dumps(admission, indent=2) + "\n")


def tokens(state: State) -> dict[str, str]:
    """One token per identity. Known ones stay; new ones are added to ``tokens.csv``."""
    path = state.root / "pki" / "tokens.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {identity: token for token, _, identity, *_ in csv.reader(lines)}
    wanted = users(state)
    made = {identity: known.get(identity) or secrets.token_hex(16) for identity in wanted}
    text = "".join(
        f'{made[identity]},{user.name},{identity},"{",".join(user.groups)}"\n'
        for identity, user in wanted.items()
    )
    path.write_text(text)
    path.chmod(0o600)
    return made


def _kubeconfig(state: State, path: Path, server: str, user: str, token: str) -> None:
    """Everything in it has the lab's name: KUBECONFIG may list the files of several labs, as contexts."""
    name, ca = state.name, state.root / "pki" / "ca.crt"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": str(ca)}}],
        "users": [{"name": f"{user}@{name}", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{user}@{name}"}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")  # JSON is YAML


def make(state: State) -> None:
    """Everything is there: certificates, tokens, the administrator's kubeconfig and one per identity."""
    pki = state.root / "pki"
    certificates(state, pki)
    webhook_client(pki)
    (pki / "audit-policy.json").write_text(json.dumps(rbac.audit_policy(), indent=2) + "\n")
    for user, token in tokens(state).items():
        _kubeconfig(state, state.identity(user), state.server, user, token)
        if user == ADMIN:
            _kubeconfig(state, state.kubeconfig, f"https://127.0.0.1:{state.port}", user, token)
