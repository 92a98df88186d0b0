"""Every combination of URL and credentials that cannot work ends the process at start with the setting's name."""

import pytest

from galactic.settings import RouterSettings, load


@pytest.fixture
def files(authority, tmp_path):
    """The files of the cases: a CA, a client's pair, another's key, and files that are no certificates."""
    ca = authority("ca")
    one, other = ca.issue("one"), ca.issue("other")
    (tmp_path / "text").write_text("not a certificate\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "password").write_text("hunter2\n")
    both = tmp_path / "both"
    both.write_bytes(one.cert.read_bytes() + one.key.read_bytes())
    return {
        "CA": ca.cert,
        "CERT": one.cert,
        "KEY": one.key,
        "OTHER": other.key,
        "BOTH": both,
        "ENCRYPTED": one.encrypted(),
        "TEXT": tmp_path / "text",
        "BINARY": tmp_path / "binary",
        "PASSWORD": tmp_path / "password",
        "ABSENT": tmp_path / "absent",
        "FOLDER": tmp_path,
    }


def _given(arguments: str, files) -> list[str]:
    return [str(files.get(word, word)) for word in arguments.split()]


TLS = "--mqtt-url mqtts://h"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(f"{TLS} --mqtt-key-file KEY", "mqtt_key_file mqtt_cert_file", id="key-without-cert"),
        pytest.param(f"{TLS} --mqtt-cert-file CERT", "mqtt_cert_file PEM key", id="cert-without-key"),
        pytest.param(
            f"{TLS} --mqtt-cert-file CERT --mqtt-key-file OTHER", "mqtt_key_file belongs", id="another's-key"
        ),
        pytest.param(
            f"{TLS} --mqtt-cert-file CERT --mqtt-key-file ENCRYPTED",
            "mqtt_key_file encrypted",
            id="encrypted-key",
        ),
        pytest.param(f"{TLS} --mqtt-ca-file TEXT", "mqtt_ca_file PEM", id="ca-is-text"),
        pytest.param(f"{TLS} --mqtt-ca-file BINARY", "mqtt_ca_file read", id="ca-is-binary"),
        pytest.param(f"{TLS} --mqtt-ca-file KEY", "mqtt_ca_file PEM", id="ca-is-a-key"),
        pytest.param(f"{TLS} --mqtt-ca-file ABSENT", "mqtt_ca_file absent", id="no-such-ca"),
        pytest.param(f"{TLS} --mqtt-ca-file FOLDER", "mqtt_ca_file directory", id="ca-is-a-folder"),
        pytest.param(
            f"{TLS} --mqtt-cert-file ABSENT --mqtt-key-file KEY", "mqtt_cert_file absent", id="no-such-cert"
        ),
        pytest.param(
            f"{TLS} --mqtt-cert-file CERT --mqtt-key-file ABSENT", "mqtt_key_file absent", id="no-such-key"
        ),
        pytest.param("--mqtt-ca-file CA", "mqtt_ca_file mqtts://", id="ca-without-tls"),
        pytest.param(
            "--mqtt-url ws://h --mqtt-cert-file CERT --mqtt-key-file KEY",
            "mqtt_cert_file wss://",
            id="cert-without-tls",
        ),
        pytest.param("--mqtt-password hunter2", "mqtt_username", id="password-without-user"),
        pytest.param(
            "--mqtt-username u --mqtt-password hunter2 --mqtt-password-file PASSWORD",
            "mqtt_password mqtt_password_file both",
            id="two-passwords",
        ),
        pytest.param(
            "--mqtt-username u --mqtt-password-file ABSENT",
            "mqtt_password_file absent",
            id="no-such-password",
        ),
        pytest.param("--mqtt-url mqtt://u:hunter2@h", "mqtt_username", id="password-in-url"),
        pytest.param("--mqtt-url mqtt://h:0", "mqtt_url", id="port-0"),
        pytest.param("--mqtt-url mqtt://h:70000", "mqtt_url", id="port-too-large"),
        pytest.param("--mqtt-url mqtt://h:x", "mqtt_url", id="port-is-a-word"),
        pytest.param("--mqtt-url mqtt://:1883", "mqtt_url", id="no-host"),
        pytest.param("--mqtt-url mqtts://h/path", "mqtt_url wss://", id="path-without-websocket"),
        pytest.param("--mqtt-url ws://h/p?q", "mqtt_url query", id="query"),
    ],
)
def test_what_cannot_work_ends_the_process_at_start(arguments: str, words: str, files, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        load(RouterSettings, _given(arguments, files), program="galactic-router")
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert all(word in printed for word in words.split()), printed
    assert "hunter2" not in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(TLS, id="the-system's-cas"),
        pytest.param(f"{TLS}:8883 --mqtt-ca-file CA", id="a-ca"),
        pytest.param(f"{TLS} --mqtt-cert-file CERT --mqtt-key-file KEY", id="a-pair"),
        pytest.param(f"{TLS} --mqtt-cert-file BOTH", id="a-pair-in-one-file"),
        pytest.param("--mqtt-url wss://h/a/path --mqtt-ca-file CA", id="wss"),
        pytest.param("--mqtt-url mqtt://[::1]:1883", id="ipv6"),
        pytest.param("--mqtt-username u --mqtt-password hunter2", id="password"),
        pytest.param("--mqtt-username u", id="user-without-password"),
    ],
)
def test_what_can_work_is_taken(arguments: str, files) -> None:
    load(RouterSettings, _given(arguments, files))


def test_a_password_is_read_again_without_its_line_end(files, tmp_path) -> None:
    settings = load(RouterSettings, ["--mqtt-username", "u", "--mqtt-password-file", str(files["PASSWORD"])])
    assert settings.password() == "hunter2"
    files["PASSWORD"].write_text("changed\r\n")
    assert settings.password() == "changed"


def test_a_secret_of_the_wrong_type_is_not_shown(tmp_path, capsys) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mqtt_username: u\nmqtt_password: 12345678\n")
    with pytest.raises(SystemExit):
        load(RouterSettings, ["--config", str(path)])
    printed = capsys.readouterr().err
    assert "mqtt_password" in printed
    assert "12345678" not in printed
