"""Connections that others on the way could read: which are warned of, and in which words."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galactic.node.status import StatusReport
from galactic.settings import MqttSettings, RouterSettings, exposure


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mqtt://broker.example:1883", "mqtt:// sends the password of mqtt_username to broker.example unencrypted"),
        ("mqtt://[2001:db8::1]", "to 2001:db8::1 unencrypted; give mqtts://"),
        ("ws://broker.example/mqtt", "give wss://"),
        ("mqtts://broker.example", None),
        ("wss://broker.example/mqtt", None),
        ("mqtt://localhost:1883", None),
        ("mqtt://127.0.0.2", None),
        ("mqtt://[::1]:1883", None),
    ],
)  # fmt: skip
def test_a_password_over_a_plain_connection(url: str, problem: str | None, tmp_path: Path) -> None:
    found = MqttSettings(mqtt_url=url, mqtt_username="u", mqtt_password="p").password_exposure  # noqa: S106
    assert (found is None) == (problem is None)
    assert not problem or problem in str(found)
    assert MqttSettings(mqtt_url=url).password_exposure is None, "there is no password to read"
    (tmp_path / "password").write_text("p")
    by_file = MqttSettings(mqtt_url=url, mqtt_username="u", mqtt_password_file=tmp_path / "password")
    assert by_file.password_exposure == found


@pytest.mark.parametrize(
    ("url", "environment", "problem"),
    [
        pytest.param("//u:p@db.example/x", {}, "sslmode prefer may send the password unencrypted (db", id="default"),
        pytest.param("//u@db/x?sslmode=disable", {}, "sslmode disable may send", id="off"),
        pytest.param("//u@db/x?sslmode=require", {}, "require does not check the server's certificate", id="any"),
        pytest.param("//u@db/x?sslmode=verify-full", {}, None, id="verified"),
        pytest.param("//u@db/x?sslmode=verify-ca", {}, None, id="own-ca"),
        pytest.param("//u@db/x?sslrootcert=system", {}, None, id="system-implies-verify-full"),
        pytest.param("//u@db/x", {"PGSSLMODE": "verify-full"}, None, id="by-variable"),
        pytest.param("//u@db/x?sslmode=prefer", {"PGSSLMODE": "verify-full"}, "prefer", id="url-first"),
        pytest.param("//u@localhost:5432/x", {}, None, id="localhost"),
        pytest.param("//u@[::1]:5432/x", {}, None, id="loopback"),
        pytest.param("//u@127.0.0.1,db2:5432/x", {}, "(db2)", id="one-of-two"),
        pytest.param("//u@[2001:db8::5]:5432/x", {}, "(2001:db8::5)", id="ipv6"),
        pytest.param("///x", {}, None, id="socket"),
        pytest.param("///x?host=/run/postgresql", {}, None, id="socket-folder"),
        pytest.param("//%2Frun%2Fpostgresql/x", {}, None, id="socket-folder-as-host"),
        pytest.param("///x?host=db", {}, "(db)", id="host-in-query"),
        pytest.param("///x", {"PGHOST": "db"}, "(db)", id="host-by-variable"),
    ],
)  # fmt: skip
def test_a_database_that_others_could_read_or_stand_in_for(
    url: str, environment: dict[str, str], problem: str | None
) -> None:
    found = exposure.database(f"postgresql:{url}", environment)
    assert (found is None) == (problem is None), found
    assert not problem or problem in str(found)
    assert "u:p" not in str(found)


def test_no_database_is_exposed_where_there_is_none() -> None:
    assert RouterSettings().database_exposure is None


@pytest.mark.parametrize(("problem", "status"), [("mqtt_url: …", False), (None, True)])
def test_a_nodes_condition_has_it(problem: str | None, status: bool) -> None:
    session: Any = SimpleNamespace(problem=None, password_exposure=problem, leaderless=None)
    sync = SimpleNamespace(problem=None, ready=SimpleNamespace(is_set=lambda: True))
    host: Any = SimpleNamespace(setup=SimpleNamespace(problem=None), sync=sync)
    kubernetes: Any = SimpleNamespace(fallback_vpcs=0, certificate_problem=None, statuses_problem=None)
    store: Any = SimpleNamespace(node=SimpleNamespace(prefix="2001:db8::/56"))
    report = StatusReport(store, host, session, kubernetes, SimpleNamespace())  # type: ignore[arg-type]
    (found,) = [condition for condition in report._conditions() if condition.type == "PasswordEncrypted"]
    assert found.status == status
    assert found.message == (problem or "no password is sent to the broker unencrypted")
