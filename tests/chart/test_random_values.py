"""Whatever the schema allows can be rendered, and an API server takes every object of it: by its own description of
its kinds, in which no field is unknown, and by a dry run, in which its validation has its say.
"""

import json
import os
from random import Random

import pytest
import yaml
from apiserver import Server
from charting import NAMESPACE, Helm, Refused
from openapi import Kinds
from values import CHART, values

from galactic_lab.cluster import Lab

FIRST, LAST = map(int, os.environ.get("GALACTIC_CHART_SEEDS", "0:100").split(":"))
BATCH = 20
RELEASES = ("galactic", "g", "r" * 53, "with.dots-1", "12")
NAMESPACES = (NAMESPACE, "n", "default", "n" * 63, "12")
"""Short, as long as Helm and Kubernetes let them be, and what could be taken for a number."""
FOREIGN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
"""Kinds of others, which the lab's API server does not have."""


@pytest.fixture(scope="module")
def server(lab: Lab) -> Server:
    # The API server looks for the accounts of bare pods, such as that of `helm test`.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "galactic-test"}}
    lab.kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(account))
    return Server(lab.kubeconfig)


@pytest.fixture(scope="module")
def kinds(server: Server) -> Kinds:
    return Kinds(server.get("/openapi/v2"))


@pytest.mark.parametrize("first", range(FIRST, LAST, BATCH))
def test_whatever_the_schema_allows_is_accepted(helm: Helm, server: Server, kinds: Kinds, first: int) -> None:
    for seed in range(first, first + BATCH):
        random = Random(seed)
        place = f"--namespace={random.choice(NAMESPACES)}"
        for manifest in helm.objects(values(random), place, release=random.choice(RELEASES)):
            if manifest["apiVersion"] in FOREIGN:
                continue
            if manifest["kind"] != "CustomResourceDefinition":
                assert not kinds.problems(manifest), (seed, manifest["metadata"]["name"])
            if "namespace" in manifest["metadata"]:
                manifest["metadata"]["namespace"] = "default"  # always there, unlike ours
            assert not server.problem(manifest), f"seed {seed}\n{yaml.safe_dump(manifest)}"


def test_a_field_that_does_not_exist_would_be_seen(helm: Helm, server: Server, kinds: Kinds) -> None:
    (thing, *_) = [manifest for manifest in helm.objects() if manifest["kind"] == "DaemonSet"]
    assert not kinds.problems(thing)
    thing["spec"]["template"]["spec"]["hostNetworking"] = True
    assert "hostNetworking" in str(kinds.problems(thing))
    thing["spec"]["template"]["spec"]["dnsPolicy"] = "Sometimes"
    thing["metadata"]["namespace"] = "default"
    assert "Sometimes" in server.problem(thing)


@pytest.mark.parametrize("namespace", [NAMESPACE, "elsewhere"])
def test_helm_3_renders_the_same(helm: Helm, helm3: Helm, namespace: str) -> None:
    more = ("--include-crds", f"--namespace={namespace}")
    # The two sort webhook configurations, which Helm 3 does not know by kind, differently.
    order = lambda it: (it["kind"], it["metadata"].get("namespace", ""), it["metadata"]["name"])  # noqa: E731
    assert sorted(helm.objects({}, *more), key=order) == sorted(helm3.objects({}, *more), key=order)


def test_lint_finds_nothing(helm: Helm, helm3: Helm) -> None:
    for program in (helm, helm3):
        assert "0 chart(s) failed" in program.run("lint", "--strict", str(CHART))
    with pytest.raises(Refused):
        helm.run("lint", str(CHART), "--set=nope=1")
