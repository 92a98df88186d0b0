"""Flags override variables, variables the file, the file defaults; a bad value ends the process with its name."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from galactic.settings import NodeSettings, OperatorSettings, RouterSettings, Settings, WebhookSettings, load
from galactic.settings.old_names import OLD_NAMES, flag, variable


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


@pytest.mark.parametrize("text", ["", "192.0.2.1", "2001:db8::1"])
def test_an_address_may_be_empty(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALACTIC_METRICS_ADDRESS", text)
    assert str(load(NodeSettings, []).metrics_address or "") == text


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
        pytest.param(["--metrics-address", "n1"], "", ["metrics_address", "n1", "address of"], id="address"),
        pytest.param(["--log-level", "loud"], "", ["log_level", "loud", "warning"], id="level"),
        pytest.param(["--cluster", "a/b"], "", ["cluster", "a/b"], id="cluster-with-slash"),
        pytest.param(["--srv6-block", "10.0.0.0/8"], "", ["srv6_block", "10.0.0.0/8"], id="ipv4-space"),
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
    message = capsys.readouterr().err
    assert "galactic-router" in message
    assert all(word in message for word in words), message


@dataclass(frozen=True, slots=True)
class Renamed:
    """A setting of one program under both names, with a value for each."""

    kind: type[Settings]
    old: str
    new: str
    old_value: str
    new_value: str


OLD = [
    pytest.param(
        Renamed(NodeSettings, "srv6_space", "srv6_block", "fd01::/48", "fd02::/48"), id="block-node"
    ),
    pytest.param(
        Renamed(RouterSettings, "srv6_space", "srv6_block", "fd01::/48", "fd02::/48"), id="block-router"
    ),
    pytest.param(
        Renamed(OperatorSettings, "srv6_space", "srv6_block", "fd01::/48", "fd02::/48"), id="block-operator"
    ),
    pytest.param(Renamed(NodeSettings, "guard", "drop_external_sids", "false", "true"), id="external-sids"),
    pytest.param(Renamed(WebhookSettings, "url", "webhook_url", "https://a", "https://b"), id="webhook-url"),
    pytest.param(Renamed(WebhookSettings, "name", "webhook_name", "a", "b"), id="webhook-name"),
]


class Given:
    """Gives settings in one source, as flags, as ``--flag=value``, as variables or as keys of a file."""

    def __init__(self, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source, self._file, self._patch = source, folder / "settings.yaml", monkeypatch

    def spelled(self, name: str) -> str:
        if self._source == "variable":
            return variable(name)
        return name if self._source == "key" else flag(name)

    def arguments(self, values: dict[str, str]) -> list[str]:
        match self._source:
            case "flag":
                return [word for name, value in values.items() for word in (flag(name), value)]
            case "flag=":
                return [f"{flag(name)}={value}" for name, value in values.items()]
            case "variable":
                for name, value in values.items():
                    self._patch.setenv(variable(name), value)
                return []
        self._file.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
        return ["--config", str(self._file)]


@pytest.fixture(params=["flag", "flag=", "variable", "key"])
def given(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(request.param, tmp_path, monkeypatch)


@pytest.mark.parametrize("case", OLD)
def test_an_old_name_works_with_one_warning_that_gives_the_new_one(
    case: Renamed, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(
        case.kind, given.arguments({case.old: case.old_value, "cluster": "east"}), program="galactic-x"
    )
    assert (_value(settings, case.new), settings.cluster) == (case.old_value, "east")
    warning = f"galactic-x: {given.spelled(case.old)} is deprecated: use {given.spelled(case.new)}\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("order", [1, -1], ids=["old-first", "new-first"])
@pytest.mark.parametrize("case", OLD)
def test_the_new_name_counts_where_both_are_given(
    case: Renamed, order: int, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [(case.old, case.old_value), (case.new, case.new_value), ("cluster", "east")]
    settings = load(case.kind, given.arguments(dict(both[::order])), program="galactic-x")
    assert (_value(settings, case.new), settings.cluster) == (case.new_value, "east")
    old, new = given.spelled(case.old), given.spelled(case.new)
    assert (
        capsys.readouterr().err == f"galactic-x: {old} is deprecated: ignored, because {new} is given too\n"
    )


@pytest.mark.parametrize("case", OLD)
def test_a_new_name_alone_warns_of_nothing(
    case: Renamed, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _value(load(case.kind, given.arguments({case.new: case.new_value})), case.new) == case.new_value
    assert capsys.readouterr().err == ""


def _value(settings: Settings, name: str) -> str:
    return str(getattr(settings, name)).lower()


def test_an_old_flag_goes_before_a_new_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALACTIC_DROP_EXTERNAL_SIDS", "true")
    assert load(NodeSettings, ["--guard", "false"]).drop_external_sids is False


def test_a_bad_value_by_an_old_name_is_refused_with_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(RouterSettings, ["--srv6-space=10.0.0.0/8"], program="galactic-router")
    lines = capsys.readouterr().err
    assert "srv6_block: Input is not a valid IPv6 network (given: '10.0.0.0/8')" in lines
    assert "--srv6-space is deprecated: use --srv6-block" in lines


@pytest.mark.parametrize("name", OLD_NAMES)
def test_an_old_name_is_unknown_to_a_program_without_the_new_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Plain(BaseSettings):
        model_config = Settings.model_config

    (tmp_path / "settings.yaml").write_text(f"{name}: x\n")
    with pytest.raises(SystemExit):
        load(Plain, ["--config", str(tmp_path / "settings.yaml")])  # type: ignore[type-var]
    assert f"{name}: no such setting" in capsys.readouterr().err


def test_every_old_name_is_in_the_table() -> None:
    cases = [case for param in OLD for case in param.values if isinstance(case, Renamed)]
    assert {(case.old, case.new) for case in cases} == set(OLD_NAMES.items())


def test_a_taint_that_is_never_removed_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set-node-taint", "true"]
    assert load(OperatorSettings, arguments).set_node_taint
    with pytest.raises(SystemExit):
        load(OperatorSettings, [*arguments, "--remove-node-taint", "false"])
    assert "set_node_taint without remove_node_taint" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [OperatorSettings, RouterSettings, NodeSettings, WebhookSettings])
def test_every_setting_has_a_description(kind: type) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        pytest.param({"mqtt_url": "mqtt://broker"}, "is for mqtts:// and wss://", id="without-tls"),
        pytest.param({"mqtt_url": "mqtts://broker", "mqtt_cert_file": "…"}, "not both", id="two"),
    ],
)
def test_a_certificate_is_requested_or_given(more: dict[str, str], problem: str, tmp_path: Path) -> None:
    from galactic.kube.client_certificates import authority as made
    from galactic.kube.client_certificates import generated, issued

    if more.get("mqtt_cert_file"):
        key, request = generated("default/n1")
        path = tmp_path / "pair.pem"
        path.write_bytes(key + issued(made(datetime.now(UTC)), request, "default/n1", datetime.now(UTC)))
        more = {**more, "mqtt_cert_file": str(path)}
    assert NodeSettings(mqtt_url="mqtts://broker", request_broker_certificate=True)
    with pytest.raises(ValueError, match=problem):
        NodeSettings(request_broker_certificate=True, **more)
