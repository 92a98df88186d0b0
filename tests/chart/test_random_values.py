"""Whatever the schema allows can be rendered, and an API server takes every object of it: by its own description of
its kinds, in which no field is unknown, and by a dry run, in which its validation has its say.
"""

import http.client
import json
import ssl
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from charting import NAMESPACE, Helm, Refused
from openapi import Kinds
from values import CHART, values

from galactic.lab.cluster import Lab

EXAMPLES, BATCH = 200, 20
FOREIGN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
"""Kinds of others, which the lab's API server does not have."""


class Server:
    """Requests to an API server as its administrator, over one connection."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        url = urlsplit(config["clusters"][0]["cluster"]["server"])
        context = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        assert url.hostname
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=60)
        self._headers = {
            "Authorization": f"Bearer {config['users'][0]['user']['token']}",
            "Content-Type": "application/json",
        }
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}
        self._seen: dict[str, str] = {}

    def get(self, path: str) -> Any:
        return self._request("GET", path)[1]

    def problem(self, thing: dict[str, Any]) -> str:
        """What the server says against creating the object, in a dry run; asked once for equal ones."""
        text = json.dumps(thing, sort_keys=True)
        if text not in self._seen:
            status, answer = self._request("POST", self._path(thing), text)
            there = status == 409 and answer.get("reason") == "AlreadyExists"
            self._seen[text] = "" if status < 300 or there else answer["message"]
        return self._seen[text]

    def _path(self, thing: dict[str, Any]) -> str:
        version, kind = thing["apiVersion"], thing["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._plurals:
            for resource in self.get(base)["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = resource["name"], resource["namespaced"]
        plural, namespaced = self._plurals[version, kind]
        place = f"/namespaces/{thing['metadata']['namespace']}" if namespaced else ""
        return f"{base}{place}/{plural}?dryRun=All"

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture(scope="module")
def server(lab: Lab) -> Server:
    # The API server looks for the accounts of bare pods, such as that of `helm test`.
    lab.kubectl("create", "serviceaccount", "galactic-test", "-n", "default")
    return Server(lab.kubeconfig)


@pytest.fixture(scope="module")
def kinds(server: Server) -> Kinds:
    return Kinds(server.get("/openapi/v2"))


@pytest.mark.parametrize("first", range(0, EXAMPLES, BATCH))
def test_whatever_the_schema_allows_is_accepted(helm: Helm, server: Server, kinds: Kinds, first: int) -> None:
    for seed in range(first, first + BATCH):
        for thing in helm.objects(values(Random(seed))):
            if thing["apiVersion"] in FOREIGN:
                continue
            if thing["kind"] != "CustomResourceDefinition":
                assert not kinds.problems(thing), (seed, thing["metadata"]["name"])
            if "namespace" in thing["metadata"]:
                thing["metadata"]["namespace"] = "default"  # always there, unlike ours
            assert not server.problem(thing), f"seed {seed}\n{yaml.safe_dump(thing)}"


def test_a_field_that_does_not_exist_would_be_seen(helm: Helm, server: Server, kinds: Kinds) -> None:
    (thing, *_) = [it for it in helm.objects() if it["kind"] == "DaemonSet"]
    assert not kinds.problems(thing)
    thing["spec"]["template"]["spec"]["hostNetworking"] = True
    assert "hostNetworking" in str(kinds.problems(thing))
    thing["spec"]["template"]["spec"]["dnsPolicy"] = "Sometimes"
    thing["metadata"]["namespace"] = "default"
    assert "Sometimes" in server.problem(thing)


def test_newer_servers_get_newer_kinds(helm: Helm) -> None:
    def budgets(version: str) -> set[str]:
        objects = helm.objects(version=version)
        return {it["apiVersion"] for it in objects if it["kind"] == "PodDisruptionBudget"}

    assert budgets("1.20.0") == {"policy/v1beta1"}
    assert budgets("1.34.0") == {"policy/v1"}


@pytest.mark.parametrize("namespace", [NAMESPACE, "elsewhere"])
def test_helm_3_renders_the_same(helm: Helm, helm3: Helm, namespace: str) -> None:
    more = ("--include-crds", f"--namespace={namespace}")
    assert helm.objects({}, *more) == helm3.objects({}, *more)


def test_lint_finds_nothing(helm: Helm, helm3: Helm) -> None:
    for one in (helm, helm3):
        assert "0 chart(s) failed" in one.run("lint", "--strict", str(CHART))
    with pytest.raises(Refused):
        helm.run("lint", str(CHART), "--set=nope=1")
