"""The webhook configurations: what old and new API servers are told."""

from typing import Any

import pytest

from galactic.kube.namespaces import ADMISSION_LABEL, to_be_labelled
from galactic.kube.resources import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS
from galactic.webhook.configuration import (
    INJECT,
    NAME_LABEL,
    ClientConfig,
    configurations,
    merged,
)
from galactic.webhook.nodesegment import identities

DOOR = ClientConfig("galactic-system", "galactic-webhook", bundle="Q0E=")


def webhooks(version: tuple[int, int], client_config: ClientConfig = DOOR) -> list[dict[str, Any]]:
    return [
        one
        for _, manifest in configurations("galactic", client_config, version)
        for one in manifest["webhooks"]
    ]


@pytest.mark.parametrize("version", [(0, 0), (1, 20), (1, 28), (1, 34)])
def test_every_webhook_fails_closed_in_time_and_a_dry_run_has_no_effect(version: tuple[int, int]) -> None:
    kinds = [resource for resource, _ in configurations("galactic", DOOR, version)]
    assert kinds == [MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS]
    for one in webhooks(version):
        assert one["failurePolicy"] == "Fail"
        assert one["timeoutSeconds"] == (15 if one["name"].startswith("pods.") else 10)
        assert one["sideEffects"] == ("NoneOnDryRun" if one["name"].startswith("kinds.") else "None")
        assert one["clientConfig"]["caBundle"] == "Q0E="
        assert not any("DELETE" in rule["operations"] for rule in one["rules"]), "nothing may hinder deletion"


@pytest.mark.parametrize(
    ("version", "told_apart", "by_name"),
    [
        pytest.param((1, 20), False, False, id="labels-nothing"),
        pytest.param((1, 21), False, True, id="labels-namespaces"),
        pytest.param((1, 27), False, True, id="conditions-off"),
        pytest.param((1, 28), True, True, id="conditions"),
    ],
)
def test_pods_are_narrowed_as_far_as_the_server_can(
    version: tuple[int, int], told_apart: bool, by_name: bool
) -> None:
    pods = [one for one in webhooks(version) if one["name"].startswith("pods.")]
    assert len(pods) == 2
    for one in pods:
        assert ("matchConditions" in one) == told_apart
        keys = {part["key"]: part["values"] for part in one["namespaceSelector"]["matchExpressions"]}
        assert keys[ADMISSION_LABEL] == ["ignore"]
        assert (keys.get(NAME_LABEL) == ["kube-system", "galactic-system"]) == by_name
    # Where the server does not label namespaces by name, we do.
    assert to_be_labelled("galactic-system", version) == (
        () if by_name else ("kube-system", "galactic-system")
    )


def test_new_servers_do_not_ask_about_finalizers() -> None:
    conditions = {one["name"]: one["matchConditions"][0]["expression"] for one in webhooks((1, 30))}
    assert conditions["kinds.galactic.datumapis.com"].endswith("object.spec != oldObject.spec")


def test_new_servers_ask_about_a_node_status_only_where_another_node_writes_it() -> None:
    """tests/chart has a real API server evaluate it."""
    nodes = identities("system:node:{node},gs:node")
    configured = configurations("galactic", DOOR, (1, 30), nodes=nodes)[1][1]["webhooks"]
    conditions = {
        one["name"].partition(".")[0]: {part["name"]: part["expression"] for part in one["matchConditions"]}
        for one in configured
    }
    assert conditions["node-statuses"] == {
        "is-of-another-node": nodes.foreign,
        "stays": "!has(object.metadata.deletionTimestamp)",
    }
    assert conditions["nodes"]["is-to-be-judged"].endswith(
        f"object.spec != oldObject.spec || {nodes.foreign}"
    )
    assert nodes.foreign.count("||") == 1, "one alternative for each pattern"
    assert identities("").foreign == "false"


def test_mutation_is_repeated_when_others_change_the_pod() -> None:
    (_, manifest), _ = configurations("galactic", DOOR, (1, 30))
    assert [one["reinvocationPolicy"] for one in manifest["webhooks"]] == ["IfNeeded"]


@pytest.mark.parametrize(
    ("client_config", "client", "names"),
    [
        pytest.param(
            DOOR,
            {"service": {"namespace": "galactic-system", "name": "galactic-webhook", "path": "/mutate", "port": 443}},
            ("galactic-webhook.galactic-system.svc", "galactic-webhook.galactic-system.svc.cluster.local"),
            id="service",
        ),
        pytest.param(
            ClientConfig("n", "s", "https://[fd00::1]:9443", "Q0E="),
            {"url": "https://[fd00::1]:9443/mutate"},
            ("fd00::1",),
            id="ipv6-url",
        ),
        pytest.param(
            ClientConfig("n", "s", "https://hooks.example:9443/", "Q0E="), {"url": "https://hooks.example:9443/mutate"},
            ("hooks.example",), id="named-url",
        ),
    ],
)  # fmt: skip
def test_where_we_are(client_config: ClientConfig, client: dict[str, Any], names: tuple[str, ...]) -> None:
    assert webhooks((1, 30), client_config)[0]["clientConfig"] == client | {"caBundle": "Q0E="}
    assert client_config.names == names


def stored(manifest: dict[str, Any]) -> dict[str, Any]:
    """As the API server gives it back: with defaults and a version."""
    webhooks = [{**one, "objectSelector": {}} for one in manifest["webhooks"]]
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": "7"}, "webhooks": webhooks}


def test_what_is_there_already_is_not_written_again() -> None:
    for _, manifest in configurations("galactic", DOOR, (1, 30)):
        current = stored(manifest)
        assert merged(current, manifest) is None
        current["webhooks"][0]["failurePolicy"] = "Ignore"
        mended = merged(current, manifest)
        assert mended is not None
        assert mended["webhooks"][0]["failurePolicy"] == "Fail"
        assert mended["metadata"]["resourceVersion"] == "7", "or it would overwrite what it has not seen"


def test_a_ca_that_others_entered_stays() -> None:
    client_config = ClientConfig("galactic-system", "galactic-webhook", inject="galactic-system/webhook")
    _, manifest = configurations("galactic", client_config, (1, 30))[0]
    assert manifest["metadata"]["annotations"] == {INJECT: "galactic-system/webhook"}
    current = stored(manifest)
    current["webhooks"] = [
        {**one, "clientConfig": {**one["clientConfig"], "caBundle": "VEhFSVJT"}}
        for one in current["webhooks"]
    ]
    assert merged(current, manifest) is None
    current["webhooks"][0]["timeoutSeconds"] = 30
    mended = merged(current, manifest)
    assert mended is not None
    assert mended["webhooks"][0]["clientConfig"]["caBundle"] == "VEhFSVJT"
