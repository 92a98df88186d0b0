"""Flags before environment before file before defaults, and a clear end to a bad one."""

from pathlib import Path

import pytest

from galactic.settings import NodeSettings, OperatorSettings, RouterSettings, WebhookSettings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "galactic.yaml"
    path.write_text("mqtt_base: from/file\ncluster: from-file\nnode_name: from-file\n")
    return path


def test_order(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALACTIC_CLUSTER", "from-environment")
    monkeypatch.setenv("GALACTIC_NODE_NAME", "from-environment")
    settings = load(NodeSettings, ["--config", str(config), "--node-name", "from-flag"])
    assert (settings.node_name, settings.cluster, settings.mqtt_base) == (
        "from-flag",
        "from-environment",
        "from/file",
    )
    assert settings.mqtt_url == "mqtt://localhost:1883"


def test_the_file_can_be_named_by_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALACTIC_CONFIG", str(config))
    assert load(NodeSettings, []).cluster == "from-file"
    monkeypatch.delenv("GALACTIC_CONFIG")
    assert load(NodeSettings, []).cluster == "default"


def test_a_secret_does_not_show() -> None:
    assert "hunter2" not in repr(load(RouterSettings, ["--mqtt-username", "u", "--mqtt-password", "hunter2"]))


@pytest.mark.parametrize(
    ("arguments", "file", "words"),
    [
        pytest.param(
            ["--mqtt-url", "http://broker"], "", ["mqtt_url", "http://broker", "mqtts://"], id="scheme"
        ),
        pytest.param(["--mqtt-base", "a/+"], "", ["mqtt_base", "a/+"], id="wildcard-in-base"),
        pytest.param(["--metrics-port", "70000"], "", ["metrics_port", "70000", "65535"], id="port"),
        pytest.param(["--log-level", "loud"], "", ["log_level", "loud", "warning"], id="level"),
        pytest.param(["--cluster", "a/b"], "", ["cluster", "a/b"], id="cluster-with-slash"),
        pytest.param(["--srv6-space", "10.0.0.0/8"], "", ["srv6_space", "10.0.0.0/8"], id="ipv4-space"),
        pytest.param(["--kubernetes", "maybe"], "", ["kubernetes", "maybe"], id="not-a-boolean"),
        pytest.param(
            [], "mqtt_ulr: mqtt://x\n", ["mqtt_ulr", "no such setting", "mqtt_url"], id="unknown-key"
        ),
        pytest.param(["--mqtt-ulr", "mqtt://x"], "", ["--mqtt-ulr"], id="unknown-flag"),
        pytest.param(["--config", "/nowhere.yaml"], "", ["/nowhere.yaml", "no such file"], id="no-file"),
    ],
)
def test_a_bad_value_stops_the_process_with_its_name(
    arguments: list[str], file: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if file:
        path = tmp_path / "config.yaml"
        path.write_text(file)
        arguments = ["--config", str(path), *arguments]
    with pytest.raises(SystemExit) as caught:
        load(RouterSettings, arguments, program="galactic-router")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "galactic-router" in said
    assert all(word in said for word in words), said


def test_a_taint_that_nobody_takes_off_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set-node-taint", "true"]
    assert load(OperatorSettings, arguments).set_node_taint
    with pytest.raises(SystemExit):
        load(OperatorSettings, [*arguments, "--remove-node-taint", "false"])
    assert "set_node_taint without remove_node_taint" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [OperatorSettings, RouterSettings, NodeSettings, WebhookSettings])
def test_every_setting_has_a_description(kind: type) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
