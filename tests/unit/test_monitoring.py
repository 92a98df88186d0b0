"""The server of a controller's metrics and health: by HTTPS and for readers alone, where that is set."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import unused_port
from waits import until

from galactic import monitoring
from galactic.errors import NotYet, Rejected, Unreachable
from galactic.kube.certificates import self_signed
from galactic.launch import Health
from galactic.metrics import registry
from galactic.monitoring import Monitoring
from galactic.settings import OperatorSettings, RouterSettings, load


class Readers:
    """Instead of the API server."""

    def __init__(self) -> None:
        self.answers = {
            "unknown": Rejected("unknown", reason="Unauthenticated"),
            "tenant": Rejected("tenant may not", reason="Forbidden"),
            "later": NotYet("too many", reason="Busy"),
            "away": Unreachable("kube-apiserver", "refused"),
            "not-ours": Rejected("galactic-node may not ask", reason="HTTP403"),
        }

    async def check(self, token: str, path: str) -> None:
        assert path == "/metrics"
        if token in self.answers:
            raise self.answers[token]

    async def close(self) -> None: ...


@asynccontextmanager
async def served(**settings: object) -> AsyncIterator[tuple[Monitoring, int]]:
    port = unused_port()
    given = OperatorSettings(metrics_port=port, metrics_address="127.0.0.1", **settings)
    server = Monitoring(given, Health(), registry("test"), Readers)
    await server.start()
    task = asyncio.create_task(server.run())
    try:
        yield server, port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()


async def get(url: str, authorization: str | None = None, *, context: ssl.SSLContext | bool = False):
    headers = {"Authorization": authorization} if authorization is not None else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=context) as reply:
        return reply.status, await reply.text(), reply.headers


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        pytest.param("Bearer prometheus", 200, id="a-reader"),
        pytest.param("bearer  prometheus ", 200, id="in-other-letters"),
        pytest.param(None, 401, id="no-token"),
        pytest.param("", 401, id="an-empty-header"),
        pytest.param("Bearer ", 401, id="an-empty-token"),
        pytest.param("Basic cHJvbWV0aGV1cw==", 401, id="a-password"),
        pytest.param("Bearer unknown", 401, id="an-unknown-token"),
        pytest.param("Bearer tenant", 403, id="another-user"),
        pytest.param("Bearer later", 503, id="too-many-at-a-time"),
        pytest.param("Bearer away", 503, id="the-api-server-is-away"),
        pytest.param("Bearer not-ours", 503, id="we-may-not-ask"),
    ],
)
async def test_metrics_are_for_readers(authorization: str | None, status: int) -> None:
    async with served(metrics_secure=True) as (_, port):
        got, text, headers = await get(f"https://127.0.0.1:{port}/metrics", authorization)
        assert got == status
        assert ("galactic_build_info" in text) is (status == 200)
        assert ("WWW-Authenticate" in headers) is (status == 401)


async def test_probes_need_no_token_and_nothing_is_served_unencrypted() -> None:
    async with served(metrics_secure=True) as (_, port):
        for path in ("/healthz", "/readyz", "/livez"):
            assert (await get(f"https://127.0.0.1:{port}{path}"))[:2] == (200, "ok\n")
        with pytest.raises(aiohttp.ClientError):
            await get(f"http://127.0.0.1:{port}/metrics", "Bearer prometheus")


async def test_without_the_setting_nothing_has_changed() -> None:
    async with served() as (_, port):
        assert (await get(f"http://127.0.0.1:{port}/metrics"))[0] == 200


def issued(folder: Path) -> dict[str, Path]:
    """Certificate and key in files."""
    pair = self_signed(["127.0.0.1"], datetime.now(UTC), timedelta(days=1))
    files = {"metrics_cert_file": folder / "tls.crt", "metrics_key_file": folder / "tls.key"}
    for path, pem in zip(files.values(), (pair.certificates, pair.key), strict=True):
        path.write_bytes(pem)
    return files


async def test_a_certificate_is_verified_and_read_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(monitoring, "CERTIFICATE_SECONDS", 0.01)
    files = issued(tmp_path)
    async with served(metrics_secure=True, **files) as (server, port):
        url = f"https://127.0.0.1:{port}/livez"
        first = ssl.create_default_context(cafile=str(files["metrics_cert_file"]))
        assert (await get(url, context=first))[0] == 200
        files["metrics_key_file"].write_text("no key")
        await asyncio.sleep(0.05)
        assert (await get(url, context=first))[0] == 200, "a broken file changes nothing"
        issued(tmp_path)
        second = ssl.create_default_context(cafile=str(files["metrics_cert_file"]))
        loaded = files["metrics_cert_file"].read_bytes()
        await until(lambda: server._certificate._loaded[0] == loaded)
        assert (await get(url, context=second))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(url, context=first)


async def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    files = issued(tmp_path)
    files["metrics_key_file"].write_text("no key")
    with pytest.raises(Rejected, match="give a certificate and its key as PEM"):
        async with served(metrics_secure=True, **files):
            pass


@pytest.mark.parametrize(
    ("kind", "words", "problem"),
    [
        pytest.param(
            OperatorSettings,
            ["--metrics-secure=true", "--metrics-cert-file=/a"],
            "give both or neither",
            id="no-key",
        ),
        pytest.param(
            OperatorSettings,
            ["--metrics-cert-file=/a", "--metrics-key-file=/b"],
            "not served without metrics_secure",
            id="not-secure",
        ),
        pytest.param(
            RouterSettings,
            ["--kubernetes=false", "--metrics-secure=true"],
            "the API server decides who may read",
            id="no-api-server",
        ),
    ],
)
def test_settings_that_do_not_go_together(kind, words: list[str], problem: str, capsys) -> None:
    with pytest.raises(SystemExit):
        load(kind, words)
    assert problem in capsys.readouterr().err
