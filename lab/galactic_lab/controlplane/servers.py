"""The programs beside the nodes: etcd, Kubernetes' servers, MQTT broker, database, and Galactic's controllers."""

import json
from pathlib import Path
from typing import Final

from galactic.crds.schema import KINDS, definition
from galactic_lab.assets import Assets
from galactic_lab.controlplane import broker, dns, postgres, prometheus
from galactic_lab.controlplane.controllers import controllers
from galactic_lab.processes import Program
from galactic_lab.state import (
    AGENT_PORT,
    API_PORT,
    DATABASE_PORT,
    GATEWAY,
    PROMETHEUS_PORT,
    SERVICES,
    State,
    environment,
    interpreter,
)


def etcd(state: State, assets: Assets) -> Program:
    """Without fsync: a lab's data need not survive the machine."""
    url, peer = "http://[::1]:2379", "http://[::1]:2380"
    argv = [str(assets.etcd), "--name=lab", f"--data-dir={state.memory / 'etcd'}", "--unsafe-no-fsync"]
    argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    argv += [
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
    ]
    argv += ["--log-level=warn", "--logger=zap", "--log-outputs=stderr"]
    return Program("etcd", argv, priority=100)


def apiserver(state: State, assets: Assets) -> Program:
    """With RBAC and an audit log of Galactic's controllers."""
    pki = state.root / "pki"
    argv = [
        str(assets.apiserver),
        "--etcd-servers=http://[::1]:2379",
        "--bind-address=::",
        f"--secure-port={API_PORT}",
        f"--advertise-address={state.control}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--tls-cert-file={pki / 'server.crt'}",
        f"--tls-private-key-file={pki / 'server.key'}",
        f"--cert-dir={state.data / 'apiserver'}",
        f"--token-auth-file={pki / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--admission-control-config-file={pki / 'admission.json'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={pki / 'audit-policy.json'}",
        f"--audit-log-path={state.audit}",
        "--audit-log-maxsize=100",
        "--audit-log-maxbackup=1",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--enable-aggregator-routing=true",  # to webhooks' pods: a Service's address leads nowhere from here
        "--profiling=false",
        "--v=0",
    ]
    return Program("kube-apiserver", argv, priority=200)


def controller_manager(state: State, assets: Assets) -> Program:
    """With the default controllers, among them garbage collection, deployments and node lifecycle."""
    pki, kubeconfig = state.root / "pki", state.identity("kube-controller-manager")
    argv = [
        str(assets.controller_manager),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
        "--node-monitor-grace-period=120s",  # all nodes are one process of this machine, which may be held up
        f"--cert-dir={state.data / 'controller-manager'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        "--bind-address=::1",
        "--profiling=false",
        "--v=0",
    ]
    return Program("kube-controller-manager", argv, priority=300)


def scheduler(state: State, assets: Assets) -> Program:
    """Configured by file, as Kubernetes wants it."""
    kubeconfig = state.identity("kube-scheduler")
    config = state.data / "scheduler.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(kubeconfig)},
                "leaderElection": {"leaderElect": False},
            }
        )
    )
    argv = [str(assets.scheduler), "--bind-address=::1", "--v=0", f"--config={config}"]
    return Program("kube-scheduler", argv, priority=300)


def database(state: State) -> Program:
    """PostgreSQL, for the routers."""
    folder = state.data / "postgres"
    if not folder.exists():
        postgres.make(folder, port=DATABASE_PORT, listen="::1")
    return Program("postgres", postgres.command(folder), priority=100, stop_signal="INT")


def forwarders(state: State, *, guest: bool) -> list[Program]:
    """The forwarders start outside the lab's namespace: they listen on the machine and connect inside.

    Optional services have a forwarder of their own: the nodes depend on a connection through the other.
    """
    always = [f"{state.port}=[{state.control}]:{API_PORT}"]
    if guest:
        always.append(f"{state.agent_socket}=[{GATEWAY}]:{AGENT_PORT}")
    services = []
    if state.database:
        services.append(f"{state.database_port}=[::1]:{DATABASE_PORT}")
    if state.prometheus:
        services.append(f"{state.prometheus_port}=[::1]:{PROMETHEUS_PORT}")
    command = [*interpreter(), "-m", "galactic_lab.controlplane.forward", state.namespace]
    return [
        Program(name, [*command, *routes], environment(), inside=False, priority=50)
        for name, routes in (("forwarder", always), ("forwarder-services", services))
        if routes
    ]


def programs(state: State, assets: Assets, *, guest: bool) -> list[Program]:
    """All programs of the control plane, in the order of their start."""
    if state.standalone and not state.admissions.exists():
        state.admissions.write_text("unlisted: first\nvpcs: {}\n")
    state.data.mkdir(parents=True, exist_ok=True)
    state.memory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kubernetes = [make(state, assets) for make in (apiserver, controller_manager, scheduler)]
    first = [*forwarders(state, guest=guest), etcd(state, assets)]
    if state.chart:
        return [*first, *kubernetes, dns.program(state)]
    first += [] if state.join else [broker.program(state, assets.mosquitto)]
    first += [database(state)] if state.database else []
    last = [prometheus.program(state)] if state.prometheus else []
    return first + kubernetes + controllers(state) + last


MULTUS: Final = Path(__file__).with_name("multus.yaml")
"""Multus's CRD."""


def definitions(checkout: Path) -> list[Path]:
    """Files to apply beside Galactic's own kinds: Multus' CRD, and the roles for users of the kinds."""
    return [MULTUS, checkout / "charts/galactic/templates/clusterroles-users.yaml"]


def kinds() -> str:
    """Galactic's own CRDs. YAML."""
    return "".join(f"---\n{json.dumps(definition(kind))}\n" for kind in KINDS)
