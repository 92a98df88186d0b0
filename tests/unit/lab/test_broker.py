"""The lab's broker is configured as the one that is shipped."""

import difflib
from pathlib import Path

import pytest

from galactic_lab import state
from galactic_lab.controlplane import broker, credentials
from galactic_lab.state import State, checkout

SHIPPED = checkout() / "deploy/mosquitto"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setattr(state, "HOME", tmp_path)
    one = State("x", nodes=2)
    credentials.certificates(one, one.root / "pki")
    broker.program(one, Path("/usr/sbin/mosquitto"))
    return one


def test_only_places_differ(lab: State) -> None:
    shipped, made = (
        (SHIPPED / "mosquitto.conf").read_text(),
        (lab.broker / "mosquitto.conf").read_text(),
    )
    lines = difflib.ndiff(shipped.splitlines(), made.splitlines())
    differ = [line[2:] for line in lines if line.startswith(("+", "-")) and line[2:]]
    assert differ
    assert all("/" in line for line in differ), differ
    assert (lab.broker / "acl").read_text() == (SHIPPED / "acl").read_text()
    assert "/etc/mosquitto" not in made
    assert "/var/lib" not in made


def test_each_has_a_password_of_its_own_that_stays(lab: State) -> None:
    def passwords() -> dict[str, str]:
        folder = lab.broker / "secrets"
        return {
            str(path.relative_to(folder)).removesuffix("/.operator"): path.read_text()
            for path in folder.rglob("*")
            if path.is_file()
        }

    first = passwords()
    assert set(first) >= {
        "default",
        "default/node-1",
        "default/node-2",
        "galactic-router-0",
        "galactic-observer",
    }
    assert len(set(first.values())) == len(first)
    assert all(secret not in (lab.broker / "passwords").read_text() for secret in first.values())
    broker.admit(lab, ["default/new"])
    assert {name: password for name, password in passwords().items() if name != "default/new"} == first
    known = {line.split(":")[0] for line in (lab.broker / "passwords").read_text().splitlines()}
    assert known == set(passwords())


def test_a_controller_gets_the_settings_to_connect(lab: State) -> None:
    variables = broker.variables(lab, "default/node-1")
    assert variables["GALACTIC_MQTT_USERNAME"] == "default/node-1"
    assert Path(variables["GALACTIC_MQTT_PASSWORD_FILE"]).stat().st_mode & 0o077 == 0
    assert "BEGIN CERTIFICATE" in Path(variables["GALACTIC_MQTT_CA_FILE"]).read_text()
