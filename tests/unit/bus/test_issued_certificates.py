"""The operator issues each node's client certificate, and the shipped Mosquitto holds each node to its own topics."""

import asyncio
import base64
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from galactic.bus import Connected
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected, Unreachable
from galactic.kube.client_certificates import AUTHORITY, generated, half_life, issued, manifest, user
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import CERTIFICATE_REQUESTS, PODS, SECRETS
from galactic.messages import NodeEndpoints, Topics, encode
from galactic.node.kubernetes import broker_certificate
from galactic.node.kubernetes.broker_certificate import BrokerCertificate
from galactic.operator.issuer import NODE_NAME, POD_NAME, POD_UID, Issuer, Place
from galactic.settings import NodeSettings

SHIPPED = Path(__file__).parents[3] / "deploy/mosquitto"
NAMESPACE = "galactic-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:galactic-node"
PLACE = Place("default", NAMESPACE)
TOPICS = Topics("galactic/v1")
HOUR = timedelta(hours=1)


class Server(MemoryApi):
    """Writes the requester into each request, as the API server does: ``account``, and ``extra`` of its token."""

    def __init__(self) -> None:
        super().__init__()
        self.account, self.extra = ACCOUNT, {NODE_NAME: ["n1"]}

    async def create(self, resource, body, namespace=None):
        if resource == CERTIFICATE_REQUESTS:
            body = {**body, "spec": {**body["spec"], "username": self.account, "extra": self.extra}}
        return await super().create(resource, body, namespace)


@pytest.fixture
def api() -> Server:
    return Server()


@asynccontextmanager
async def issuing(api: Server) -> AsyncIterator[Issuer]:
    issuer = Issuer(api, PLACE, lambda: True)
    task = asyncio.create_task(issuer.run())
    try:
        yield issuer
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


@pytest.fixture(autouse=True)
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(broker_certificate, "POLL_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(broker_certificate, "BACKOFF_SECONDS", (0.01, 0.02))


def name_in(path: Path) -> str:
    return x509.load_pem_x509_certificate(path.read_bytes()).subject.rfc4514_string()


async def asked(api: Server, name: str = "r", request: bytes | None = None) -> dict:
    await api.create(
        CERTIFICATE_REQUESTS, manifest(name, generated("default/n2")[1] if request is None else request)
    )
    return api.stored(CERTIFICATE_REQUESTS, name)


async def test_the_node_is_the_tokens_whatever_the_request_asks_for(api) -> None:
    request = await asked(api)
    await Issuer(api, PLACE, lambda: True).decide(request)
    status = api.stored(CERTIFICATE_REQUESTS, "r")["status"]
    assert [condition["type"] for condition in status["conditions"]] == ["Approved"]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(status["certificate"]))
    assert certificate.subject.rfc4514_string() == "CN=default/n1"
    assert certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=24)


POD = {"metadata": {"name": "galactic-node-x"}, "spec": {"nodeName": "n7"}}


@pytest.mark.parametrize(
    ("account", "extra"),
    [
        pytest.param(
            "system:serviceaccount:tenant:galactic-node", {NODE_NAME: ["n1"]}, id="another-namespace"
        ),
        pytest.param("system:node:n1", {NODE_NAME: ["n1"]}, id="a-kubelet"),
        pytest.param(ACCOUNT, {}, id="a-token-without-a-pod"),
        pytest.param(ACCOUNT, {NODE_NAME: ["n1", "n2"]}, id="two-nodes"),
        pytest.param(ACCOUNT, {POD_NAME: ["galactic-node-x"], POD_UID: ["another"]}, id="a-namesake"),
        pytest.param(ACCOUNT, {POD_NAME: ["gone"], POD_UID: ["uid-1"]}, id="a-pod-that-is-gone"),
        pytest.param(ACCOUNT, {NODE_NAME: ["n" * 60]}, id="a-name-that-does-not-fit"),
    ],
)
async def test_all_others_are_denied(api, account: str, extra: dict) -> None:
    api.put(PODS, POD, NAMESPACE)
    api.account, api.extra = account, extra
    issuer = Issuer(api, PLACE, lambda: True)
    await issuer.decide(await asked(api))
    status = api.stored(CERTIFICATE_REQUESTS, "r")["status"]
    assert "certificate" not in status
    assert [condition["type"] for condition in status["conditions"]] == ["Denied"]


async def test_one_that_a_person_approved_is_no_exception(api) -> None:
    api.account = "system:serviceaccount:tenant:default"
    request = await asked(api)
    approved = {"conditions": [{"type": "Approved", "status": "True", "reason": "ByHand"}]}
    request = api.change(CERTIFICATE_REQUESTS, "r", {"status": approved}, subresource="status")
    await Issuer(api, PLACE, lambda: True).decide(request)
    status = api.stored(CERTIFICATE_REQUESTS, "r")["status"]
    assert "certificate" not in status
    assert [condition["type"] for condition in status["conditions"]] == ["Approved", "Failed"]


async def test_a_token_that_names_only_the_pod_is_the_node_of_that_pod(api) -> None:
    uid = api.put(PODS, POD, NAMESPACE)["metadata"]["uid"]
    api.extra = {POD_NAME: ["galactic-node-x"], POD_UID: [uid]}
    await Issuer(api, PLACE, lambda: True).decide(await asked(api))
    certificate = base64.b64decode(api.stored(CERTIFICATE_REQUESTS, "r")["status"]["certificate"])
    assert x509.load_pem_x509_certificate(certificate).subject.rfc4514_string() == "CN=default/n7"


@pytest.mark.parametrize("request_", [b"", b"no request", b"\x00"], ids=["empty", "text", "nul"])
async def test_what_is_no_request_is_denied(api, request_: bytes) -> None:
    await Issuer(api, PLACE, lambda: True).decide(await asked(api, request=request_))
    (condition,) = api.stored(CERTIFICATE_REQUESTS, "r")["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("Denied", "InvalidRequest")


async def test_a_ca_that_cannot_be_used_denies_nothing_and_is_not_replaced(api) -> None:
    body = {"metadata": {"name": AUTHORITY}, "data": {"tls.crt": "", "tls.key": ""}}
    api.put(SECRETS, body, NAMESPACE)
    with pytest.raises(Rejected, match="no CA with its key"):
        await Issuer(api, PLACE, lambda: True).decide(await asked(api))
    assert "status" not in api.stored(CERTIFICATE_REQUESTS, "r")
    assert api.stored(SECRETS, AUTHORITY, NAMESPACE)["data"] == body["data"]


async def test_a_replica_that_does_not_lead_issues_nothing_until_it_does(api, tmp_path, until) -> None:
    leads = [False]
    issuer = Issuer(api, PLACE, lambda: leads[0])
    task = asyncio.create_task(issuer.run())
    own = BrokerCertificate(api, tmp_path / "broker.pem", "default", "n1")
    waiting = asyncio.create_task(own.renew())
    await until(lambda: list(api.all(CERTIFICATE_REQUESTS)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert not list(api.all(SECRETS))
    leads[0] = True
    await asyncio.wait_for(waiting, 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_ca_is_there_before_the_first_request(api, until) -> None:
    async with issuing(api):
        await until(lambda: list(api.all(SECRETS)))
        assert len(list(api.all(SECRETS))) == 1


async def test_a_node_keeps_its_certificate_and_renews_it_at_half_its_life(api, tmp_path, until) -> None:
    path = tmp_path / "broker.pem"
    now = [datetime.now(UTC)]
    own = BrokerCertificate(api, path, "default", "n1", lambda: now[0])
    assert own.seconds_left() == 0
    async with issuing(api):
        await own.renew()
        assert name_in(path) == "CN=default/n1"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert timedelta(hours=11) < timedelta(seconds=own.seconds_left()) <= timedelta(hours=12)
        first = path.read_bytes()
        again = BrokerCertificate(api, path, "default", "n1", lambda: now[0])
        assert again.seconds_left() == own.seconds_left(), "a restart needs neither operator nor API server"
        assert BrokerCertificate(api, path, "other", "n1", lambda: now[0]).seconds_left() == 0
        now[0] += 13 * HOUR
        task = asyncio.create_task(own.run())
        await until(lambda: path.read_bytes() != first)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert half_life(path.read_bytes(), user("default", "n1"))
    assert len(list(tmp_path.iterdir())) == 1


async def test_while_there_is_no_issuer_the_old_one_stays_and_one_request_waits(api, tmp_path, until) -> None:
    path = tmp_path / "broker.pem"
    own = BrokerCertificate(api, path, "default", "n1", lambda: datetime.now(UTC) + 13 * HOUR)
    async with issuing(api):
        await BrokerCertificate(api, path, "default", "n1").renew()
    before = path.read_bytes()
    down = [False]
    api.fail = lambda *_: Unreachable("kube-apiserver", "away") if down[0] else None
    task = asyncio.create_task(own.run())
    await until(lambda: len(list(api.all(CERTIFICATE_REQUESTS))) == 2)
    await until(lambda: "not approved" in (own.problem or ""))
    down[0] = True
    await until(lambda: "away" in (own.problem or ""))
    down[0] = False
    await asyncio.sleep(0.1)
    assert len(list(api.all(CERTIFICATE_REQUESTS))) == 2, "the one that waits is asked about again"
    assert path.read_bytes() == before
    async with issuing(api):
        await until(lambda: path.read_bytes() != before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_denied_node_reports_the_reason_and_keeps_its_certificate(api, tmp_path) -> None:
    path = tmp_path / "broker.pem"
    path.write_bytes(b"old")
    api.extra = {}
    async with issuing(api):
        with pytest.raises(Rejected, match="names no pod"):
            await BrokerCertificate(api, path, "default", "n1").renew()
    assert path.read_bytes() == b"old"


# -- the broker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(mosquitto, authority, tmp_path) -> Iterator[tuple[str, Path, dict]]:
    """The shipped one, which trusts the operator's CA: (URL, the CA of its own certificate, the CA's Secret)."""
    from galactic.kube.client_certificates import authority as made

    secret, servers = made(datetime.now(UTC)), authority("servers")
    pair = servers.issue("broker", hosts=("localhost",))
    (tmp_path / "server.crt").write_bytes(pair.cert.read_bytes())
    (tmp_path / "server.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "clients-ca.pem").write_bytes(secret["tls.crt"])
    (tmp_path / "acl").write_bytes((SHIPPED / "acl").read_bytes())
    (tmp_path / "passwords").write_text("")
    config = (SHIPPED / "mosquitto.conf").read_text()
    for place in ("/etc/mosquitto", "/var/lib/mosquitto"):
        config = config.replace(place, str(tmp_path))
    for name in ("8883", "8884", "8885"):
        config = config.replace(f"listener {name}\n", f"listener {mosquitto.port_of(name)} 127.0.0.1\n")
    mosquitto.start(config=config)
    return f"mqtts://localhost:{mosquitto.port_of('8883')}", servers.cert, secret


@asynccontextmanager
async def connected(url: str, ca: Path, pem: Path) -> AsyncIterator[PahoBus]:
    settings = NodeSettings(mqtt_url=url, mqtt_ca_file=ca, mqtt_cert_file=pem)
    async with PahoBus(settings, "galactic-node") as bus:
        async with asyncio.timeout(60):
            async for item in bus.deliveries():
                if isinstance(item, Connected):
                    break
        yield bus


async def test_with_it_a_node_speaks_as_itself_alone(api, broker, tmp_path) -> None:
    url, ca, secret = broker
    data = {name: base64.b64encode(value).decode() for name, value in secret.items()}
    api.put(SECRETS, {"metadata": {"name": AUTHORITY}, "data": data}, NAMESPACE)
    pem, stolen = tmp_path / "broker.pem", tmp_path / "stolen.pem"
    async with issuing(api):
        await BrokerCertificate(api, pem, "default", "n1").renew()
        # Root on n1 has n1's token, and asks for n2's certificate with it.
        key, request = generated("default/n2")
        await api.create(CERTIFICATE_REQUESTS, manifest("theft", request))
        async with asyncio.timeout(60):
            while not (status := api.stored(CERTIFICATE_REQUESTS, "theft").get("status", {})).get(
                "certificate"
            ):
                await asyncio.sleep(0.01)
        stolen.write_bytes(key + base64.b64decode(status["certificate"]))
    registration = encode(NodeEndpoints(1, ()))
    for path in (pem, stolen):
        async with connected(url, ca, path) as bus:
            await bus.publish(TOPICS.endpoints("default", "n1"), registration, retain=True)
            with pytest.raises(Unreachable, match="refused"):
                await bus.publish(TOPICS.endpoints("default", "n2"), registration, retain=True)
            with pytest.raises(Unreachable, match="refused"):
                await bus.publish(TOPICS.leader, b"{}", retain=True)


async def test_one_of_another_ca_does_not_connect(api, broker, tmp_path) -> None:
    from galactic.kube.client_certificates import authority as made

    url, ca, _ = broker
    key, request = generated("default/n1")
    pem = tmp_path / "broker.pem"
    pem.write_bytes(key + issued(made(datetime.now(UTC)), request, "default/n1", datetime.now(UTC)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3), connected(url, ca, pem):
            pass
