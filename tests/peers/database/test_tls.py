"""A real server with TLS: with the chart's variables a router accepts only a certificate of the CA, for that host."""

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from galactic.errors import Unreachable
from galactic.kube.certificates import Lifetime, renewed
from galactic.router.database.session import session
from galactic.settings import exposure
from galactic_lab.controlplane.postgres import Postgres, owner, temporary

NAME = "db.example"


@dataclass(frozen=True)
class Encrypted:
    """A server whose certificate names ``db.example``, and the file of its CA."""

    server: Postgres
    ca: Path

    def url(self, host: str, **more: str) -> str:
        """The same server by either name: libpq connects to ``hostaddr``, and checks ``host``."""
        query = "&".join(f"{name}={value}" for name, value in {"hostaddr": "127.0.0.1", **more}.items())
        return f"postgresql://galactic@{host}:{self.server.port}/postgres?{query}"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    bundle = renewed(None, (NAME,), Lifetime(timedelta(days=1)), datetime.now(UTC))
    with temporary() as server:
        server.kill()
        data = server.folder / "data"
        for name, content in (("tls.crt", bundle.serving.certificates), ("tls.key", bundle.serving.key)):
            path = data / name
            path.write_bytes(content)
            path.chmod(0o600)
            if user := owner():
                entry = pwd.getpwnam(user)
                os.chown(path, entry.pw_uid, entry.pw_gid)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\nssl_cert_file = 'tls.crt'\nssl_key_file = 'tls.key'\n")
        server.start()
        ca = tmp_path_factory.mktemp("ca") / "ca.crt"
        ca.write_bytes(bundle.ca.certificates)
        yield Encrypted(server, ca)


@pytest.fixture
def chart(encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the chart sets with ``database.caSecret``."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(encrypted.ca))


@pytest.mark.usefixtures("chart")
async def test_a_server_with_the_name_is_accepted(encrypted: Encrypted) -> None:
    url = encrypted.url(NAME)
    assert exposure.database(url, os.environ) is None
    async with session(url) as opened:
        asked = opened.connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert await (await opened.do(asked)).fetchone() == (True,)


@pytest.mark.usefixtures("chart")
async def test_a_server_with_another_name_is_not(encrypted: Encrypted) -> None:
    with pytest.raises(Unreachable, match="does not match host name"):
        async with session(encrypted.url("other.example")):
            pass


@pytest.mark.usefixtures("chart")
async def test_a_server_of_another_ca_is_not(encrypted: Encrypted, tmp_path: Path) -> None:
    other = renewed(None, (NAME,), Lifetime(timedelta(days=1)), datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(other.ca.certificates)
    with pytest.raises(Unreachable, match="certificate verify failed"):
        async with session(encrypted.url(NAME, sslrootcert=str(tmp_path / "ca.crt"))):
            pass


async def test_without_them_any_server_is_and_a_warning_names_it(encrypted: Encrypted) -> None:
    url = encrypted.url("other.example")
    assert "sslmode prefer" in str(exposure.database(url, {}))
    async with session(url):
        pass
