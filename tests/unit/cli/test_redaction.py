"""Nothing secret leaves a cluster in a sysdump: every planted secret is gone, and useful fields are still there."""

import json
from typing import Any

import pytest

from galactic.cli.redaction import REDACTED, redacted_object, redacted_text

PLANTED = "s3cr3t-Pl4nted"
JWT = "eyJhbGciOiJSUzI1NiIs.eyJpc3MiOiJrdWJlcm5l.dGhlLXNpZ25hdHVyZQ"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlantedKey\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("given", "stays"),
    [
        pytest.param(f"mqtt_password={PLANTED} node=a", "node=a", id="name=value"),
        pytest.param(f"GALACTIC_MQTT_PASSWORD: {PLANTED}\nnext: 1", "next: 1", id="name: value"),
        pytest.param(f'{{"password":"{PLANTED} with space","event":"up"}}', '"event":"up"', id="json"),
        pytest.param(
            f'{{"config":"{{\\"token\\":\\"{PLANTED}\\",\\"vpc\\":\\"jU\\"}}"}}', "jU", id="json-in-json"
        ),
        pytest.param(f"--mqtt-password {PLANTED} --cluster x", "--cluster x", id="flag"),
        pytest.param(f"--mqtt-password={PLANTED} --cluster x", "--cluster x", id="flag="),
        pytest.param(f"postgresql://galactic:{PLANTED}@db:5432/galactic", "@db:5432/galactic", id="url"),
        pytest.param(f"postgresql://:{PLANTED}@db/galactic", "@db/galactic", id="url-without-user"),
        pytest.param(f"Authorization: Bearer {PLANTED}", "Authorization", id="bearer"),
        pytest.param(f"said {JWT} to", "said", id="jwt"),
        pytest.param(f"before\n{KEY}\nafter", "after", id="key"),
        pytest.param(f"before\n{KEY[:60]}", "before", id="key-cut-off"),
    ],
)
def test_text(given: str, stays: str) -> None:
    redacted = redacted_text(given)
    assert stays in redacted
    assert REDACTED in redacted
    for secret in (PLANTED, JWT, "PlantedKey"):
        assert secret not in redacted


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("connected to the broker at mqtts://broker:8883", id="url"),
        pytest.param("10.1.1.1/24 fe80::1 2001:db8:ff01:100:0:4d2:0:2a", id="addresses"),
        pytest.param(
            "the broker refused the connection: Bad user name or password; check mqtt_username", id="words"
        ),
        pytest.param("mqtt_password_file: /etc/galactic/password cannot be read", id="file"),
    ],
)
def test_what_helps_stays(given: str) -> None:
    assert redacted_text(given) == given


@pytest.mark.parametrize(
    ("given", "stays"),
    [
        pytest.param(
            {"kind": "Secret", "metadata": {"name": "mqtt"}, "data": {"password": PLANTED, "odd": PLANTED}},
            ["mqtt", "odd"],
            id="secret",
        ),
        pytest.param(
            {"kind": "ConfigMap", "data": {"router.yaml": f"a: {PLANTED}"}}, ["router.yaml"], id="configmap"
        ),
        pytest.param(
            {"env": [{"name": "GALACTIC_MQTT_PASSWORD", "value": PLANTED}, {"name": "X", "value": "seen"}]},
            ["GALACTIC_MQTT_PASSWORD", "seen"],
            id="variable",
        ),
        pytest.param(
            {"env": [{"name": "GALACTIC_DATABASE_URL", "value": f"postgresql://u:{PLANTED}@h/d"}]},
            ["GALACTIC_DATABASE_URL"],
            id="database",
        ),
        pytest.param(
            {"args": ["--mqtt-password", PLANTED, "--cluster", "x"]}, ["--cluster"], id="flag-and-value"
        ),
        pytest.param({"args": [f"--mqtt-password={PLANTED}"]}, ["--mqtt-password"], id="flag"),
        pytest.param(
            {
                "metadata": {
                    "annotations": {
                        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"x": PLANTED}),
                        "other": "seen",
                    }
                }
            },
            ["seen"],
            id="last-applied",
        ),
        pytest.param({"a": [{"b": {"apiToken": PLANTED}}], "n": 7}, ["7"], id="deep"),
    ],
)
def test_objects(given: dict[str, Any], stays: list[str]) -> None:
    redacted = json.dumps(redacted_object(given))
    assert PLANTED not in redacted
    for word in stays:
        assert word in redacted


def test_references_to_secrets_are_no_secrets() -> None:
    spec = {
        "automountServiceAccountToken": False,
        "env": [{"name": "GALACTIC_MQTT_PASSWORD_FILE", "value": "/etc/galactic/password"}],
        "volumes": [{"secret": {"secretName": "mqtt"}}],
        "valueFrom": {"secretKeyRef": {"name": "mqtt", "key": "password"}},
    }
    assert redacted_object(spec) == spec
