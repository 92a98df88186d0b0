"""A lab with the chart: what it asks for, what its images are made of, and why a pod of it is not Ready."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from galactic.errors import Rejected
from galactic_lab import state
from galactic_lab.agreement import agreed
from galactic_lab.builds.build import BuildFailed
from galactic_lab.controlplane import credentials, dns, helm_release
from galactic_lab.images import chart, mirrors
from galactic_lab.state import SERVICES, State

LAB = State("shop", chart=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where labs are."""
    monkeypatch.setattr(state, "HOME", tmp_path / "labs")
    return tmp_path


@pytest.mark.parametrize(
    ("fixed", "free", "field"),
    [
        ({"nodes": 0}, {}, "nodes"),
        ({"join": "east"}, {}, "join"),
        ({}, {"routers": 2}, "routers"),
        ({}, {"standalone": True, "database": True}, "database, standalone"),
        ({}, {"prometheus": True}, "prometheus"),
    ],
)
def test_the_chart_excludes_what_it_has_values_for(
    home: Path, fixed: dict[str, Any], free: dict[str, Any], field: str
) -> None:
    with pytest.raises(Rejected) as refused:
        agreed("shop", {"chart": True} | fixed, free)
    assert refused.value.field == field


def test_a_lab_with_the_chart_stays_one(home: Path) -> None:
    LAB.save()
    assert agreed("shop", {"chart": None}, {"database": None}) == LAB
    with pytest.raises(Rejected, match="values of the chart"):
        agreed("shop", {}, {"database": True})
    State("plain").save()
    with pytest.raises(Rejected, match="is up with the default, not True"):
        agreed("plain", {"chart": True}, {})


def test_only_kubernetes_parts_have_tokens() -> None:
    users = credentials.users(LAB)
    assert not [name for name in users if name.startswith("galactic")]
    assert users["kubelet-node-1"].name == "system:node:node-1"
    assert users["kube-proxy"] == ("system:kube-proxy", ())


def test_the_dns_answers_for_the_cluster_and_for_nothing_else() -> None:
    cluster, rest = dns.corefile(LAB).split("}\n. {")
    assert cluster.startswith("cluster.local in-addr.arpa ip6.arpa {")
    assert "kubernetes" in cluster
    assert "kubernetes" not in rest
    assert "NXDOMAIN" in rest
    service, endpoints = json.loads(dns.manifest(LAB))["items"]
    assert service["spec"]["clusterIP"] in map(str, SERVICES)
    assert "selector" not in service["spec"]
    assert endpoints["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    assert endpoints["endpoints"][0]["addresses"] == [str(LAB.control)]


def test_galactic_is_named_as_the_chart_names_it(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("appVersion: 1.2.3\n")
    values = tmp_path / "values.yaml"
    values.write_text("image: {repository: galactic, tag: ''}\n")
    assert chart.galactic(tmp_path) == "docker.io/library/galactic:1.2.3"
    values.write_text("image: {repository: galactic, tag: mine}\n")
    assert chart.galactic(tmp_path) == "docker.io/library/galactic:mine"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for path in (
        "controllers/galactic/node/dataplane/plan.py",
        "lab/galactic_lab/kernel/uml.py",
        "src/cni_plugin/main.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1\n")
    for path in ("LICENSE", "README.md", "constraints.txt", "pyproject.toml"):
        (tmp_path / path).write_text("1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("controllers/galactic/node/dataplane/plan.py", True),
        ("controllers/galactic/node/new.py", True),
        ("src/cni_plugin/main.py", True),
        ("constraints.txt", True),
        ("lab/galactic_lab/kernel/uml.py", False),
        ("controllers/galactic/node/__pycache__/plan.pyc", False),
        ("docs/lab.md", False),
    ],
)
def test_what_an_image_is_made_of(checkout: Path, path: str, counts: bool) -> None:
    before = chart.content(checkout)
    assert chart.content(checkout) == before
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_text("2\n")
    assert (chart.content(checkout) != before) == counts


def test_a_mode_is_part_of_an_image(checkout: Path) -> None:
    before = chart.content(checkout)
    (checkout / "src/cni_plugin/main.py").chmod(0o755)
    assert chart.content(checkout) != before


def test_roots_that_labs_use_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    roots = [home / "galactic" / f"chart-images-{number:012x}" for number in range(4)]
    for number, root in enumerate(roots):
        root.mkdir(parents=True)
        os.utime(root, (number, number))
    State("shop", images=str(roots[0])).save()
    (home / "galactic/chart-images-of-others").mkdir()
    chart.forget()
    left = {path.name for path in (home / "galactic").iterdir()}
    assert left == {roots[0].name, roots[3].name, "chart-images-of-others"}


def test_sources_of_a_suite(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [signed-by=/k] http://a.example/debian bookworm main\ndeb http://a.example/debian trixie main\n"
    )
    (parts / "b.sources").write_text(
        "Types: deb\nURIs: http://b.example/debian\nSuites: bookworm bookworm-updates\n\n"
        "Types: deb\nURIs: http://c.example/debian\nSuites: trixie\n"
    )
    (parts / "d.list").write_text("deb http://d.example/debian bookworms main\n")
    sources = {path.name: text for path, text in mirrors.sources("bookworm", tmp_path)}
    assert set(sources) == {"sources.list", "b.sources"}
    assert "trixie" not in "".join(sources.values())
    assert mirrors.mirror("bookworm", tmp_path) == "http://a.example/debian"
    (tmp_path / "sources.list").unlink()
    assert mirrors.mirror("bookworm", tmp_path) == "http://b.example/debian"
    with pytest.raises(BuildFailed, match="serves sid"):
        mirrors.mirror("sid", tmp_path, "noble")


def test_sources_of_a_suite_on_another_release(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian trixie main\n")
    (parts / "b.sources").write_text(
        "Types: deb\nURIs: http://b.example/debian-security\nSuites: trixie-security\n\n"
        "Types: deb\nURIs: http://c.example/debian\nSuites: sid\n"
    )
    found = {path.name: text for path, text in mirrors.sources("bookworm", tmp_path, "trixie")}
    assert found == {
        "sources.list": "deb http://a.example/debian bookworm main\n",
        "b.sources": "Types: deb\nURIs: http://b.example/debian-security\nSuites: bookworm-security\n",
    }
    assert mirrors.mirror("bookworm", tmp_path, "trixie") == "http://a.example/debian"


def pod(name: str = "galactic-node-x", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": "1"}, "spec": {}, "status": status}


def waiting(name: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"name": name, "containerID": "c", "state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (
            pod(containerStatuses=[waiting("node", "ErrImagePull", "no\n such")]),
            "node: ErrImagePull (no such)",
        ),
        (
            pod(initContainerStatuses=[{"name": "prepare", "state": {"terminated": {"exitCode": 3}}}]),
            "prepare: ended with 3",
        ),
        (
            pod(
                conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
            ),
            "0/3 nodes are available",
        ),
        (pod(phase="Pending"), "Pending"),
        (pod(), "unknown"),
    ],
)
def test_why_a_pod_is_not_ready(pod: dict[str, Any], why: str) -> None:
    assert helm_release.trouble(pod) == why
    assert not helm_release.is_ready(pod)


class Fake:
    """A lab with one pod that fails and one that is Ready."""

    def get(self, kind: str, *arguments: str) -> Any:
        if kind == "events":
            return {"items": [{"reason": "Failed", "message": "first\nsecond"}]}
        fine = pod("galactic-operator-y", conditions=[{"type": "Ready", "status": "True"}])
        return {"items": [pod(containerStatuses=[waiting("node", "CrashLoopBackOff")]), fine]}

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return "Traceback\n" if arguments[0] == "logs" else ""


def test_complaints_have_warnings_and_logs_of_what_is_not_ready() -> None:
    assert helm_release.complaints(Fake()) == [  # type: ignore[arg-type]
        "galactic-node-x on no node: node: CrashLoopBackOff",
        "    Failed: first second",
        "    Traceback",
        "galactic-operator-y on no node: Ready",
    ]
