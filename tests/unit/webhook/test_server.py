"""The server over real TLS: what is no review, what takes too long, and certificates that change under it."""

import asyncio
import base64
import errno
import heapq
import itertools
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from prometheus_client import CollectorRegistry

from galactic.errors import NotYet, Rejected
from galactic.kube.certificates import Bundle, Lifetime
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Resource
from galactic.settings import WebhookSettings
from galactic.webhook import registration as registering
from galactic.webhook import server as serving
from galactic.webhook.configuration import POD_TIMEOUT_SECONDS, Address
from galactic.webhook.dispatch import Rules
from galactic.webhook.inflight import LONGEST_BODY, MOST_BYTES, Inflight
from galactic.webhook.metrics import Metrics
from galactic.webhook.nodesegment import identities
from galactic.webhook.registration import Files, Registration, RegistrationConfig
from galactic.webhook.review import ALLOWED, Answer, Request
from galactic.webhook.server import Access, Certificate, Decision, Server

KEY = (SECRETS, "galactic-webhook", "galactic-system")
HOOKS = (MUTATING_WEBHOOKS, "galactic-admission")
CONFIGURATIONS = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)


def configured(api: MemoryApi, *resources: Resource, name: str = "galactic-admission") -> None:
    """Makes the configurations, as the chart does."""
    for resource in resources or CONFIGURATIONS:
        webhook = {"name": "pods.galactic.datumapis.com", "clientConfig": {"url": "https://localhost:9443"}}
        api.put(resource, {"metadata": {"name": name}, "webhooks": [webhook]})


@pytest.fixture
def api() -> MemoryApi:
    server = MemoryApi()
    configured(server)
    return server


def config(lifetime: Lifetime, files: Files | None = None) -> RegistrationConfig:
    address = Address("galactic-system", "galactic-webhook", "https://localhost:9443")
    return RegistrationConfig("galactic-webhook", address, "galactic-admission", lifetime, files)


def registration(
    api: MemoryApi,
    lifetime: Lifetime,
    files: Files | None = None,
    report: Callable[[str | None, bool], None] = lambda *_: None,
    clock: registering.Clock = registering.REAL_TIME,
) -> tuple[Registration, Certificate, Metrics]:
    metrics = Metrics(CollectorRegistry())
    certificate = Certificate(metrics)
    return Registration(api, config(lifetime, files), certificate, report, clock), certificate, metrics


class Clock:
    """A clock that advances on request: to the time at which the next sleeper wakes up."""

    def __init__(self, begin: datetime) -> None:
        self.at = begin
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.at + timedelta(seconds=seconds), next(self._numbers), future))
        await future

    async def wake(self) -> None:
        """Wakes the next sleeper, and returns when it sleeps again."""
        sleeping = len(self._sleepers)
        wake_at, _, future = heapq.heappop(self._sleepers)
        self.at = max(self.at, wake_at)
        future.set_result(None)
        while len(self._sleepers) < sleeping:
            await asyncio.sleep(0)


def review(uid: str = "1") -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "blue",
            "object": {"metadata": {"name": "web"}},
        },
    }


def free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


async def yes(_: Request) -> Answer:
    return ALLOWED


@asynccontextmanager
async def serving_on(
    certificate: Certificate,
    metrics: Metrics,
    *,
    mutate: Decision = yes,
    validate: Decision = yes,
    access: Access = Access(0),  # noqa: B008  (frozen)
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[int]:
    """A server's port. Tries another where the port was taken meanwhile."""
    while True:
        port = free_port()
        server = Server(
            replace(access, port=port),
            certificate,
            metrics,
            stopping or asyncio.Event(),
            mutate=mutate,
            validate=validate,
        )
        try:
            await server.__aenter__()
        except OSError as error:
            await server.__aexit__()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        break
    try:
        yield port
    finally:
        await server.__aexit__()


def authorities(api: MemoryApi) -> str:
    """The CAs in the configuration."""
    return base64.b64decode(api.stored(*HOOKS)["webhooks"][0]["clientConfig"]["caBundle"]).decode()


def trusting(api: MemoryApi) -> ssl.SSLContext:
    """The API server's trust: the CAs in the configuration."""
    return ssl.create_default_context(cadata=authorities(api))


async def ask(
    context: ssl.SSLContext, port: int, body: bytes, path: str = "/validate", source: str = ""
) -> tuple[int, str]:
    """Status and text of one request on a connection of its own. ``source``: the client's address."""
    local = (source, 0) if source else None
    host = "127.0.0.1" if source else "localhost"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, local_addr=local)) as session,
        session.post(f"https://{host}:{port}{path}", data=body, ssl=context) as reply,
    ):
        return reply.status, await reply.text()


async def test_no_request_fails_while_certificates_change(api: MemoryApi) -> None:
    """Two replicas, of which one makes the certificates; every request of a client that follows the configuration, and
    learns of another one a little later. The whole change of a CA lies in the past, so that all are valid today.
    """
    lifetime = Lifetime(timedelta(hours=12))  # overlap 1 h, each a look every 30 s
    begin = datetime.now(UTC) - timedelta(hours=11)
    clock = Clock(begin)
    (first, one, _), (second, other, _) = (
        registration(api, lifetime, clock=registering.Clock(clock.now, clock.sleep)) for _ in range(2)
    )
    await first.load()
    await second.load()
    served: set[str] = set()
    trusted: list[int] = []
    requests = 0
    metrics = Metrics(CollectorRegistry())

    async def asked(context: ssl.SSLContext, port: int, number: int) -> None:
        status, text = await ask(context, port, json.dumps(review(str(number))).encode())
        assert status == 200
        assert json.loads(text)["response"] == {"uid": str(number), "allowed": True}

    async with serving_on(one, metrics) as port, serving_on(other, metrics) as another:
        running = [asyncio.create_task(registration.run()) for registration in (first, second)]
        await first.ready.wait()
        await second.ready.wait()
        clock.at = begin + lifetime.renewal - timedelta(minutes=5)
        while clock.at < begin + lifetime.renewal + 2 * lifetime.overlap + timedelta(minutes=5):
            served.add(api.stored(*KEY)["data"]["tls.crt"])
            trusted.append(authorities(api).count("BEGIN"))
            context = trusting(api)
            for _ in range(3):
                await clock.wake()
            async with asyncio.TaskGroup() as tasks:  # the next one looks while they are answered
                for place in (port, another):
                    tasks.create_task(asked(context, place, requests))
                    requests += 1
                tasks.create_task(clock.wake())
        assert not any(task.done() for task in running)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    assert requests > 100
    assert len(served) == 2
    assert [number for number, _ in itertools.groupby(trusted)] == [1, 2, 1]


async def test_the_first_two_replicas_agree(api: MemoryApi) -> None:
    lifetime = Lifetime(timedelta(days=90))
    (first, *_), (second, *_) = registration(api, lifetime), registration(api, lifetime)
    await asyncio.gather(first.load(), second.load())
    Bundle.of({name: base64.b64decode(value) for name, value in api.stored(*KEY)["data"].items()})
    await first.keep()
    await second.keep()
    assert authorities(api).count("BEGIN") == 1


async def test_missing_configurations_are_reported_and_never_made() -> None:
    """Not ready until the API server asks; and again when they are deleted later."""
    api = MemoryApi()
    reports: asyncio.Queue[tuple[str | None, bool]] = asyncio.Queue()
    one, *_ = registration(
        api, Lifetime(timedelta(days=90)), report=lambda *report: reports.put_nowait(report)
    )
    configured(api, VALIDATING_WEBHOOKS)
    running = asyncio.create_task(one.run())
    problem, registered = await reports.get()
    assert (
        problem == "MutatingWebhookConfiguration galactic-admission does not exist; `helm upgrade` makes it"
    )
    assert not registered
    assert not one.ready.is_set()
    assert "caBundle" in str(api.stored(VALIDATING_WEBHOOKS, "galactic-admission")), (
        "the other one has its CAs"
    )
    configured(api, MUTATING_WEBHOOKS)
    await one.ready.wait()
    assert await reports.get() == (None, True)
    running.cancel()
    api.remove(MUTATING_WEBHOOKS, "galactic-admission")
    with pytest.raises(NotYet, match="does not exist"):
        await one.keep()


async def test_configurations_of_earlier_versions_go_when_those_of_the_chart_are_trusted() -> None:
    api = MemoryApi()
    configured(api, name="galactic-webhook")
    configured(api, name="of-others")
    one, *_ = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    with pytest.raises(NotYet):
        await one.keep()
    assert api.stored(MUTATING_WEBHOOKS, "galactic-webhook"), "or pods could be made unattached meanwhile"
    configured(api)
    await one.keep()
    left = [(kind, item["metadata"]["name"]) for kind in CONFIGURATIONS for item in api.all(kind)]
    assert left == [(kind, name) for kind in CONFIGURATIONS for name in ("of-others", "galactic-admission")]


async def test_certificates_of_others_are_served_and_their_cas_left_to_them(
    api: MemoryApi, tmp_path: Any
) -> None:
    maker, *_ = registration(api, Lifetime(timedelta(days=90)))
    await maker.load()
    data = {name: base64.b64decode(value) for name, value in api.stored(*KEY)["data"].items()}
    files = Files(tmp_path / "tls.crt", tmp_path / "tls.key")
    problems: asyncio.Queue[str | None] = asyncio.Queue()
    given, certificate, metrics = registration(
        api, Lifetime(timedelta(days=90)), files, report=lambda problem, _: problems.put_nowait(problem)
    )
    waiting = asyncio.create_task(given.load())
    assert "tls.crt: No such file" in str(await problems.get())
    assert not waiting.done()
    (tmp_path / "tls.crt").write_bytes(data["tls.crt"])
    (tmp_path / "tls.key").write_bytes(data["tls.key"])
    await waiting
    with pytest.raises(NotYet, match="has no caBundle; another program enters it"):
        await given.keep()
    for kind in CONFIGURATIONS:
        api.stored(kind, "galactic-admission")["webhooks"][0]["clientConfig"]["caBundle"] = "VEhFSVJT"
    await given.keep()
    assert api.stored(*HOOKS)["webhooks"][0]["clientConfig"]["caBundle"] == "VEhFSVJT"
    context = ssl.create_default_context(cadata=data["ca.crt"].decode())
    async with serving_on(certificate, metrics) as port:
        status, _ = await ask(context, port, json.dumps(review()).encode())
        assert status == 200


async def test_a_key_of_another_certificate_is_refused_and_changes_nothing(api: MemoryApi) -> None:
    lifetime = Lifetime(timedelta(days=90))
    one, certificate, metrics = registration(api, lifetime)
    await one.load()
    await one.keep()
    data = {name: base64.b64decode(value) for name, value in api.stored(*KEY)["data"].items()}
    with pytest.raises(Rejected):
        certificate.load(data["tls.crt"], data["ca.key"])
    async with serving_on(certificate, metrics) as port:
        status, _ = await ask(trusting(api), port, json.dumps(review()).encode())
        assert status == 200


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half-an-object"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(
            json.dumps(review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(), id="old-version"
        ),
        pytest.param(json.dumps(review() | {"request": {}}).encode(), id="no-request"),
        pytest.param(
            json.dumps(review() | {"request": {**review()["request"], "object": 7}}).encode(), id="no-object"
        ),
    ],
)
async def test_what_is_no_review_gets_400(api: MemoryApi, body: bytes) -> None:
    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    async with serving_on(certificate, metrics) as port:
        status, text = await ask(trusting(api), port, body)
        assert (status, text.partition(":")[0]) == (400, "not an AdmissionReview")
        status, _ = await ask(trusting(api), port, json.dumps(review()).encode(), "/mutate")
        assert status == 200


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("15s", 14.0), ("2s", 1.0), ("1s", 0.5), ("", 9.0), ("1m0s", 9.0)]
)
def test_an_answer_comes_before_the_api_server_gives_up(timeout: str, seconds: float) -> None:
    assert serving.limit(timeout) == seconds


def test_the_longest_patience_fits_into_the_answer() -> None:
    longest = WebhookSettings.model_fields["patience"].metadata
    (most,) = (bound.le for bound in longest if hasattr(bound, "le"))
    rules = Rules(identities(""))
    assert rules.patience <= most
    assert most + rules.grace < serving.limit(f"{POD_TIMEOUT_SECONDS}s")


async def test_the_time_out_in_the_request_counts(api: MemoryApi) -> None:
    async def sleepy(_: Request) -> Answer:
        await asyncio.Event().wait()
        return ALLOWED

    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    async with serving_on(certificate, metrics, mutate=sleepy) as port:
        body = json.dumps(review()).encode()
        _, text = await ask(trusting(api), port, body, "/mutate?timeout=1s")
        assert "no answer within 0.5 s" in json.loads(text)["response"]["status"]["message"]


async def test_a_time_out_and_a_bug_are_reported(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 0.1)

    async def sleepy(_: Request) -> Answer:
        await asyncio.Event().wait()
        return ALLOWED

    async def broken(_: Request) -> Answer:
        raise ZeroDivisionError

    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    async with serving_on(certificate, metrics, mutate=sleepy, validate=broken) as port:
        for path, message in (
            ("/mutate", "no answer within"),
            ("/validate", "ZeroDivisionError; see its log"),
        ):
            status, text = await ask(trusting(api), port, json.dumps(review()).encode(), path)
            answer = json.loads(text)["response"]
            assert status == 200
            assert not answer["allowed"]
            assert answer["status"]["code"] == 503
            assert message in answer["status"]["message"]


def client(authority: Bundle, name: str, folder: Path) -> Callable[[ssl.SSLContext], ssl.SSLContext]:
    """Gives a context a client certificate of that CA with that common name."""
    ca = x509.load_pem_x509_certificate(authority.ca.certificates)
    signer = serialization.load_pem_private_key(authority.ca.key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)

    def identified(context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(path)
        return context

    return identified


def bundle(api: MemoryApi) -> Bundle:
    return Bundle.of({name: base64.b64decode(value) for name, value in api.stored(*KEY)["data"].items()})


async def test_only_the_api_servers_certificate_is_answered(api: MemoryApi, tmp_path: Path) -> None:
    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    other_api = MemoryApi()
    foreign, *_ = registration(other_api, Lifetime(timedelta(days=90)))
    await foreign.load()
    body = json.dumps(review()).encode()
    access = Access(0, names=frozenset({"apiserver"}))
    async with serving_on(certificate, metrics, access=access) as port:
        certificate.require(bundle(api).ca.certificates)
        apiserver = client(bundle(api), "apiserver", tmp_path)
        assert (await ask(apiserver(trusting(api)), port, body))[0] == 200
        # A pod has no certificate, or one of another CA, or one that the cluster's CA made for another client.
        with pytest.raises(aiohttp.ClientError):
            await ask(trusting(api), port, body)
        with pytest.raises(aiohttp.ClientError):
            await ask(client(bundle(other_api), "stranger", tmp_path)(trusting(api)), port, body)
        assert (await ask(client(bundle(api), "kubelet", tmp_path)(trusting(api)), port, body))[0] == 403
        # A malformed file changes nothing.
        with pytest.raises(Rejected):
            certificate.require(b"nonsense")
        assert (await ask(apiserver(trusting(api)), port, body))[0] == 200


async def test_the_client_ca_is_read_from_its_file(api: MemoryApi, tmp_path: Path) -> None:
    maker, *_ = registration(api, Lifetime(timedelta(days=90)))
    await maker.load()
    (tmp_path / "client-ca.crt").write_bytes(bundle(api).ca.certificates)
    certificate = Certificate(Metrics(CollectorRegistry()))
    required = replace(config(Lifetime(timedelta(days=90))), client_ca=tmp_path / "client-ca.crt")
    await Registration(api, required, certificate, lambda _: None).keep()
    assert certificate.context.verify_mode is ssl.CERT_REQUIRED


async def test_a_long_body_is_turned_away(api: MemoryApi) -> None:
    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    large = review()
    large["request"]["object"]["data"] = "x" * (LONGEST_BODY - 1000)
    async with serving_on(certificate, metrics) as port:
        assert (await ask(trusting(api), port, json.dumps(large).encode()))[0] == 200
        large["request"]["object"]["data"] += "x" * 1000
        assert (await ask(trusting(api), port, json.dumps(large).encode()))[0] == 413

        async def chunks() -> AsyncIterator[bytes]:  # without a Content-Length
            for _ in range(LONGEST_BODY // 1024 + 1):
                yield b"x" * 1024

        assert (await ask(trusting(api), port, chunks()))[0] == 413  # type: ignore[arg-type]


async def test_a_body_that_does_not_end_is_turned_away(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "READ_SECONDS", 0.1)
    monkeypatch.setattr(serving, "LINGER_SECONDS", 0.1)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1.0)

    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    async with serving_on(certificate, metrics) as port:
        assert (await ask(trusting(api), port, endless()))[0] == 408  # type: ignore[arg-type]


async def test_a_flood_is_turned_away_and_leaves_room_for_others(api: MemoryApi) -> None:
    """One address floods; its share is half, and another address is still answered."""
    release = asyncio.Event()

    async def waiting(_: Request) -> Answer:
        await release.wait()
        return ALLOWED

    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    body = json.dumps(review()).encode()
    async with serving_on(certificate, metrics, mutate=waiting, access=Access(0, in_flight=8)) as port:
        context = trusting(api)
        context.check_hostname = False
        flood = [asyncio.create_task(ask(context, port, body, "/mutate", "127.0.0.2")) for _ in range(20)]
        turned_away, pending = set[Any](), set(flood)
        while len(turned_away) < 16:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            turned_away |= done
        assert {task.result()[0] for task in turned_away} == {429}
        assert (await ask(context, port, body, "/validate", "127.0.0.1"))[0] == 200
        release.set()
        assert [(await task)[0] for task in pending] == [200] * 4


async def test_bodies_have_a_bound_together() -> None:
    inflight = Inflight(100)
    with ExitStack() as stack:
        for client in range(MOST_BYTES // LONGEST_BODY):
            stack.enter_context(inflight.entered(str(client), None))
        with pytest.raises(NotYet), inflight.entered("one more", LONGEST_BODY):
            pass
    with inflight.entered("one more", LONGEST_BODY):
        assert len(inflight) == 1
    assert not len(inflight)


async def test_a_webhook_that_ends_answers_and_closes_connections(api: MemoryApi) -> None:
    """The API server keeps connections: the next request on one of a server that has ended would be refused."""
    one, certificate, metrics = registration(api, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    stopping, context = asyncio.Event(), trusting(api)
    async with (
        serving_on(certificate, metrics, stopping=stopping) as port,
        aiohttp.ClientSession() as session,
    ):
        connections = []
        for number in range(3):
            if number == 1:
                stopping.set()
            body = json.dumps(review(str(number))).encode()
            async with session.post(f"https://localhost:{port}/validate", data=body, ssl=context) as reply:
                assert reply.status == 200
                connections.append(reply.headers.get("Connection"))
    assert connections == [None, "close", "close"]
