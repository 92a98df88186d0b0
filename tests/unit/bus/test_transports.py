"""TCP, TLS and WebSockets against a real Mosquitto; log and metrics of refused connections."""

import asyncio
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus import paho as module
from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.settings import MqttSettings

CONFIG = """
per_listener_settings true
max_queued_messages 10000
listener {plain} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
listener {tls} 127.0.0.1
allow_anonymous true
cafile {server_ca}
certfile {cert}
keyfile {key}
listener {mutual} 127.0.0.1
cafile {client_ca}
certfile {cert}
keyfile {key}
require_certificate true
use_identity_as_username true
listener {expired} 127.0.0.1
allow_anonymous true
cafile {server_ca}
certfile {expired_cert}
keyfile {expired_key}
listener {other} 127.0.0.1
allow_anonymous true
cafile {server_ca}
certfile {other_cert}
keyfile {other_key}
listener {ws} 127.0.0.1
protocol websockets
allow_anonymous true
listener {wss} 127.0.0.1
protocol websockets
allow_anonymous true
cafile {server_ca}
certfile {cert}
keyfile {key}
"""
LISTENERS = ("plain", "tls", "mutual", "expired", "other", "ws", "wss")


@dataclass
class Broker:
    """A broker with every kind of listener, and the files to connect with."""

    ports: dict[str, int]
    files: dict[str, object]

    def settings(self, url: str, **names: str) -> MqttSettings:
        """``{tls}`` in the URL is that listener's port; files by their name here."""
        given = {f"mqtt_{key}": self.files.get(value, value) for key, value in names.items()}
        return MqttSettings(mqtt_url=url.format(**self.ports), **given)


@pytest.fixture
def broker(mosquitto, authority, tmp_path) -> Broker:
    servers, clients, strangers = authority("servers"), authority("clients"), authority("strangers")
    good = servers.issue("broker", hosts=("localhost", "127.0.0.1"))
    bad = servers.issue("broker", hosts=("localhost", "127.0.0.1"), expired=True)
    other = servers.issue("other", hosts=("other.example",))
    node, stale, stranger = (
        clients.issue("default/n1"),
        clients.issue("default/n1", expired=True),
        strangers.issue("default/n1"),
    )
    (tmp_path / "passwords").write_text("u:right\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    ports = {name: mosquitto.port_of(name) for name in LISTENERS}
    mosquitto.start(
        config=CONFIG.format(
            **ports,
            folder=tmp_path,
            server_ca=servers.cert,
            client_ca=clients.cert,
            cert=good.cert,
            key=good.key,
            expired_cert=bad.cert,
            expired_key=bad.key,
            other_cert=other.cert,
            other_key=other.key,
        )
    )
    files = {"servers": servers.cert, "strangers": strangers.cert}
    for name, pair in (("node", node), ("stale", stale), ("stranger", stranger)):
        files |= {f"{name}.crt": pair.cert, f"{name}.key": pair.key}
    return Broker(ports, files)


@asynccontextmanager
async def session(settings: MqttSettings, name: str, **more):
    async with PahoBus(settings, name, **more) as bus, asyncio.timeout(200):
        deliveries = bus.deliveries()
        while await anext(deliveries) != Connected():
            pass
        yield bus, deliveries


WAYS = [
    pytest.param("mqtt://127.0.0.1:{plain}", {"username": "u", "password": "right"}, id="password"),
    pytest.param("mqtts://127.0.0.1:{tls}", {"ca_file": "servers"}, id="tls-by-address"),
    pytest.param("mqtts://localhost:{tls}", {"ca_file": "servers"}, id="tls-by-name"),
    pytest.param(
        "mqtts://localhost:{mutual}",
        {"ca_file": "servers", "cert_file": "node.crt", "key_file": "node.key"},
        id="client-certificate",
    ),
    pytest.param("ws://127.0.0.1:{ws}", {}, id="websocket"),
    pytest.param("ws://127.0.0.1:{ws}/mqtt", {}, id="websocket-with-a-path"),
    pytest.param("wss://localhost:{wss}/mqtt", {"ca_file": "servers"}, id="websocket-over-tls"),
]


@pytest.mark.parametrize(("url", "given"), WAYS)
async def test_every_transport_carries_much_at_once(url: str, given: dict, broker: Broker) -> None:
    """Many small messages share a TLS record, and a large one needs many: neither may stall.

    To a WebSocket Mosquitto sends 25 small messages a second, and 100 kB: those transports carry less.
    """
    count, size = (60, 100_000) if url.startswith("ws") else (500, 250_000)
    async with session(broker.settings(url, **given), "a") as (bus, arrived):
        bus.subscribe("t/#")
        payloads = [b"x" * (size if number % 50 == 0 else 10) for number in range(count)]
        sent = asyncio.gather(
            *(bus.publish(f"t/{number}", payload) for number, payload in enumerate(payloads))
        )
        received = {}
        while len(received) < len(payloads):
            item = await anext(arrived)
            assert isinstance(item, Delivery)
            received[item.topic] = item.payload
        await sent
        assert received == {f"t/{number}": payload for number, payload in enumerate(payloads)}


REFUSALS = [
    pytest.param(
        "mqtt://127.0.0.1:{plain}",
        {"username": "u", "password": "wrong"},
        ("NotAuthorized", "BadCredentials"),
        "mqtt_username",
        id="wrong-password",
    ),
    pytest.param("mqtt://127.0.0.1:{plain}", {}, ("NotAuthorized", "BadCredentials"), "", id="anonymous"),
    pytest.param(
        "mqtts://localhost:{tls}",
        {"ca_file": "strangers"},
        ("UnknownAuthority",),
        "mqtt_ca_file",
        id="unknown-ca",
    ),
    pytest.param(
        "mqtts://localhost:{tls}", {}, ("UnknownAuthority",), "mqtt_ca_file", id="not-one-of-the-system's"
    ),
    pytest.param(
        "mqtts://localhost:{expired}",
        {"ca_file": "servers"},
        ("CertificateExpired",),
        "expired",
        id="expired",
    ),
    pytest.param(
        "mqtts://localhost:{other}", {"ca_file": "servers"}, ("CertificateName",), "mqtt_url", id="wrong-name"
    ),
    pytest.param(
        "mqtts://localhost:{mutual}",
        {"ca_file": "servers"},
        ("ClientCertificateMissing",),
        "mqtt_cert_file",
        id="no-client-certificate",
    ),
    pytest.param(
        "mqtts://localhost:{mutual}",
        {"ca_file": "servers", "cert_file": "stale.crt", "key_file": "stale.key"},
        ("ClientCertificateExpired",),
        "expired",
        id="expired-client-certificate",
    ),
    pytest.param(
        "mqtts://localhost:{mutual}",
        {"ca_file": "servers", "cert_file": "stranger.crt", "key_file": "stranger.key"},
        ("ClientCertificateRefused",),
        "CA",
        id="client-certificate-of-another-ca",
    ),
    pytest.param(
        "mqtts://localhost:{plain}", {"ca_file": "servers"}, ("TlsFailed", "Lost"), "", id="tls-to-plain"
    ),
    pytest.param("ws://127.0.0.1:{plain}", {}, ("NoWebSocket",), "port", id="websocket-to-plain"),
    pytest.param("mqtt://127.0.0.1:1", {}, ("ConnectionRefused",), "nothing listens", id="nobody-there"),
    pytest.param("mqtt://no-such-host.invalid", {}, ("NameUnknown",), "name", id="no-such-host"),
]


@pytest.mark.parametrize(("url", "given", "reasons", "word"), REFUSALS)
async def test_a_refused_connection_has_a_reason(
    url: str, given: dict, reasons: tuple[str, ...], word: str, *, broker: Broker, until, monkeypatch
) -> None:
    """In the log at each attempt, in the metric, and once in the stream that conditions are made of.

    A broker's TLS alert against a client certificate may be lost with the connection, more often on a busy machine: so
    there are many attempts.
    """
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(socket, "getaddrinfo", _resolved)
    collectors = CollectorRegistry()
    with capture_logs() as logs:
        async with (
            PahoBus(broker.settings(url, **given), "a", metrics=BusMetrics(collectors)) as bus,
            asyncio.timeout(200),
        ):
            arrived = bus.deliveries()
            await until(lambda: sum(line.get("reason") in reasons for line in logs) >= 2)
            assert not bus.connected
            messages = [await anext(arrived) for _ in range(len(bus._received))]
    assert all(isinstance(item, Disconnected) for item in messages)
    assert any(word in item.reason for item in messages), messages
    assert all(one != other for one, other in pairwise(messages)), "the same problem is reported once"
    assert "right" not in repr(logs)
    assert "wrong" not in repr([line for line in logs if "password" in given])
    name = "galactic_mqtt_connection_failures_total"
    assert sum(collectors.get_sample_value(name, {"reason": reason}) or 0 for reason in reasons) >= 2


_resolve = socket.getaddrinfo


def _resolved(host: str, *arguments: object, **more: object) -> list:
    """As where the name servers answer: some machines have none that do, and wait for them."""
    if host.endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _resolve(host, *arguments, **more)


async def test_what_tls_decrypted_together_is_read_together(authority) -> None:
    """Some brokers put many packets into one TLS record; when it is decrypted the socket is not readable any more."""
    servers = authority("servers")
    pair = servers.issue("broker", hosts=("localhost",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _packet(reader)
        writer.write(bytes.fromhex("2003000000"))  # CONNACK
        subscribe = await _packet(reader)
        publishes = b"".join(b"\x30\x05\x00\x01t\x00" + bytes([number]) for number in range(100))
        writer.write(b"\x90\x04" + subscribe[:2] + b"\x00\x00" + publishes)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    settings = MqttSettings(mqtt_url=f"mqtts://localhost:{port}", mqtt_ca_file=servers.cert)
    async with asyncio.timeout(200), session(settings, "a") as (bus, arrived):
        bus.subscribe("t")
        assert [(await anext(arrived)).payload for _ in range(100)] == [bytes([n]) for n in range(100)]
    server.close()


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """The body of one MQTT packet shorter than 128 bytes."""
    return await reader.readexactly((await reader.readexactly(2))[1])
