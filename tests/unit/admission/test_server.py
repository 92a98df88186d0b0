"""The server over real TLS: what is no review, what takes too long, and certificates that change under it."""

import asyncio
import base64
import json
import socket
import ssl
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from galactic.errors import Rejected
from galactic.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, SECRETS
from galactic.operator.admission import server as serving
from galactic.operator.admission.certificate import Bundle, Lifetime
from galactic.operator.admission.configuration import ADMISSION_LABEL, Door
from galactic.operator.admission.keeper import Files, Keeper, Wanted
from galactic.operator.admission.metrics import Metrics
from galactic.operator.admission.review import YES, Answer, Request
from galactic.operator.admission.server import Certificate, Server

KEY = (SECRETS, "galactic-system", "galactic-webhook")
HOOKS = (MUTATING_WEBHOOKS, "", "galactic-webhook")


def wanted(lifetime: Lifetime, files: Files | None = None) -> Wanted:
    door = Door("galactic-system", "galactic-webhook", "https://localhost:9443")
    return Wanted("galactic-webhook", door, configure=True, lifetime=lifetime, files=files)


def keeper(store: Any, lifetime: Lifetime, files: Files | None = None) -> tuple[Keeper, Certificate, Metrics]:
    certificate, metrics = Certificate(), Metrics(CollectorRegistry())
    return (
        Keeper(store, wanted(lifetime, files), certificate, metrics, (1, 20), report=lambda _: None),
        certificate,
        metrics,
    )


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
    return YES


def trusting(store: Any) -> ssl.SSLContext:
    """What the API server trusts at this moment: the CAs in the configuration."""
    bundle = store[HOOKS]["webhooks"][0]["clientConfig"]["caBundle"]
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode())


async def ask(context: ssl.SSLContext, port: int, body: bytes, path: str = "/validate") -> tuple[int, str]:
    """Status and text of one request on a connection of its own."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.post(f"https://localhost:{port}{path}", data=body, ssl=context) as reply,
    ):
        return reply.status, await reply.text()


async def test_no_request_fails_while_certificates_change(store: Any) -> None:
    """Two replicas, of which one makes the certificates; every request of a client that follows the configuration."""
    lifetime = Lifetime(timedelta(seconds=12))  # overlap 1 s, each a look every 0.25 s
    (first, one, _), (second, other, _) = keeper(store, lifetime), keeper(store, lifetime)
    await first.load()
    await second.load()
    served: set[str] = set()
    requests = 0
    ports = free_port(), free_port()
    metrics = Metrics(CollectorRegistry())
    async with (
        Server(ports[0], one, metrics, mutate=yes, validate=yes),
        Server(ports[1], other, metrics, mutate=yes, validate=yes),
        asyncio.TaskGroup() as tasks,
    ):
        running = [tasks.create_task(each.run()) for each in (first, second)]
        await first.ready.wait()
        until = asyncio.get_running_loop().time() + 12
        while asyncio.get_running_loop().time() < until or requests <= 100:  # a slow machine takes longer
            context = trusting(store)
            await asyncio.sleep(0.05)  # the API server learns of a new configuration a little later
            for port in ports:
                status, text = await ask(context, port, json.dumps(review(str(requests))).encode())
                assert status == 200
                assert json.loads(text)["response"] == {"uid": str(requests), "allowed": True}
                requests += 1
            served.add(store[KEY]["data"]["tls.crt"])
        for task in running:
            task.cancel()
    assert len(served) >= 2


async def test_the_first_two_replicas_agree(store: Any) -> None:
    lifetime = Lifetime(timedelta(days=90))
    (first, *_), (second, *_) = keeper(store, lifetime), keeper(store, lifetime)
    store.put(NAMESPACES, {"metadata": {"name": "kube-system"}})
    await asyncio.gather(first.load(), second.load())
    Bundle.of({name: base64.b64decode(value) for name, value in store[KEY]["data"].items()})
    await asyncio.gather(first.keep(), second.keep())
    assert store[NAMESPACES, "", "kube-system"]["metadata"]["labels"] == {ADMISSION_LABEL: "ignore"}


async def test_certificates_of_others_are_served_and_their_cas_left_to_them(
    store: Any, tmp_path: Any
) -> None:
    maker, *_ = keeper(store, Lifetime(timedelta(days=90)))
    await maker.load()
    data = {name: base64.b64decode(value) for name, value in store[KEY]["data"].items()}
    files = Files(tmp_path / "tls.crt", tmp_path / "tls.key")
    given, certificate, metrics = keeper(store, Lifetime(timedelta(days=90)), files)
    waiting = asyncio.create_task(given.load())
    await asyncio.sleep(0.05)
    assert not waiting.done(), "the files are not there yet"
    (tmp_path / "tls.crt").write_bytes(data["tls.crt"])
    (tmp_path / "tls.key").write_bytes(data["tls.key"])
    await asyncio.wait_for(waiting, 5)
    await given.keep()
    assert "caBundle" not in store[HOOKS]["webhooks"][0]["clientConfig"]
    context = ssl.create_default_context(cadata=data["ca.crt"].decode())
    port = free_port()
    async with Server(port, certificate, metrics, mutate=yes, validate=yes):
        status, _ = await ask(context, port, json.dumps(review()).encode())
        assert status == 200


async def test_a_key_of_another_certificate_is_refused_and_changes_nothing(store: Any) -> None:
    lifetime = Lifetime(timedelta(days=90))
    one, certificate, metrics = keeper(store, lifetime)
    await one.load()
    await one.keep()
    data = {name: base64.b64decode(value) for name, value in store[KEY]["data"].items()}
    with pytest.raises(Rejected):
        certificate.load(data["tls.crt"], data["ca.key"])
    port = free_port()
    async with Server(port, certificate, metrics, mutate=yes, validate=yes):
        status, _ = await ask(trusting(store), port, json.dumps(review()).encode())
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
async def test_what_is_no_review_gets_400(store: Any, body: bytes) -> None:
    one, certificate, metrics = keeper(store, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    port = free_port()
    async with Server(port, certificate, metrics, mutate=yes, validate=yes):
        status, text = await ask(trusting(store), port, body)
        assert (status, text.partition(":")[0]) == (400, "not an AdmissionReview")
        status, _ = await ask(trusting(store), port, json.dumps(review()).encode(), "/mutate")
        assert status == 200


async def test_too_late_and_broken_are_said_clearly(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 0.1)

    async def sleepy(_: Request) -> Answer:
        await asyncio.sleep(10)
        return YES

    async def broken(_: Request) -> Answer:
        raise ZeroDivisionError

    one, certificate, metrics = keeper(store, Lifetime(timedelta(days=90)))
    await one.load()
    await one.keep()
    port = free_port()
    async with Server(port, certificate, metrics, mutate=sleepy, validate=broken):
        for path, said in (("/mutate", "no answer within"), ("/validate", "ZeroDivisionError, see its log")):
            status, text = await ask(trusting(store), port, json.dumps(review()).encode(), path)
            answer = json.loads(text)["response"]
            assert status == 200
            assert not answer["allowed"]
            assert answer["status"]["code"] == 503
            assert said in answer["status"]["message"]
