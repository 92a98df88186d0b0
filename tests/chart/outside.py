"""A host outside of any cluster, with what its router needs: a network of its own in which broker.example.net and
database.example.net are, with the broker as it is shipped, and an /etc of its own.
"""

import base64
import hashlib
import json
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from galactic_lab.controlplane import credentials, postgres

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/router"
SHIPPED = EXAMPLES.parents[1] / "deploy/mosquitto"
BROKER, DATABASE = "broker.example.net", "database.example.net"
ROUTER = "galactic-router-0"
BUNDLE = "ssl/certs/ca-certificates.crt"
PATIENCE_SECONDS = 240.0
COPIES = 20


class Outside:
    """Made with ``up``, gone with ``down``. ``etc`` is what its processes see as /etc."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder, self.etc = folder, folder / "etc"
        self.namespace = folder.name
        self.passwords = {name: secrets.token_hex(8) for name in (ROUTER, "galactic-observer", "database")}
        self._running: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
        self._copy_etc()
        (self.etc / "hosts").write_text(f"127.0.0.1 localhost {BROKER} {DATABASE}\n")
        self._settings()
        self._broker()
        self._database()

    def down(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def enter(self) -> list[str]:
        """The words that run a command in this network, with this /etc."""
        see = (
            f'mount --bind {self.etc} /etc && mount --bind {self.folder}/lib /var/lib/mosquitto && exec "$@"'
        )
        return [
            *("nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount"),
            *("sh", "-c", see, "sh"),
        ]

    def run(self, *argv: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Its output; empty where it fails, or takes longer and is killed."""
        try:
            done = subprocess.run(
                [*self.enter, *argv], capture_output=True, text=True, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def start(self, argv: list[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.enter, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self._running.append(process)
        return process

    def leader(self, seconds: float = 30.0) -> str:
        """The leader's id by the retained topic, or by a message within so many seconds; empty: none.

        The time-out is not mosquitto_sub's own, which may hang.
        """
        who = ("-u", "galactic-observer", "-P", self.passwords["galactic-observer"])
        place = ("-h", BROKER, "-p", "8884", "--cafile", f"/etc/{BUNDLE}")
        asked = ("-t", "galactic/v1/router/leader", "-C", "1")
        output = self.run("mosquitto_sub", *place, *who, *asked, seconds=seconds)
        return str(json.loads(output)["id"]) if output else ""

    def health(self) -> str:
        ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/healthz').read().decode())"
        return self.run("python3", "-c", ask).strip()

    def forget(self) -> bool:
        """Clears the retained leader and drops the database's schema; whether both worked."""
        drop = "DROP SCHEMA IF EXISTS galactic CASCADE"
        dropped = self.run("psql", "-h", DATABASE, "-U", "galactic", "-c", drop)
        who = ("-u", ROUTER, "-P", self.passwords[ROUTER], "-h", BROKER, "-p", "8884", "-q", "1")
        topic = ("-t", "galactic/v1/router/leader", "-r", "-n")
        output = self.run("mosquitto_pub", "-d", *who, "--cafile", f"/etc/{BUNDLE}", *topic)
        return bool(dropped) and "PUBACK" in output

    def tables(self) -> set[str]:
        """The tables that the router has made in the database."""
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'galactic'"
        return set(self.run("psql", "-h", DATABASE, "-U", "galactic", "-At", "-c", query).split())

    def until(self, what: str, true: "object", process: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():  # type: ignore[operator]
            assert process.poll() is None, f"it ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{what}: {log.read_text()[-3000:]}"
            time.sleep(0.2)

    def _settings(self) -> None:
        place = self.etc / "galactic"
        place.mkdir(exist_ok=True)
        for name in ("router.yaml", "admissions.yaml"):
            shutil.copyfile(EXAMPLES / name, place / name)
        (place / "router.env").write_text(
            f"GALACTIC_MQTT_PASSWORD={self.passwords[ROUTER]}\n"
            f"GALACTIC_DATABASE_URL=postgresql://galactic:{self.passwords['database']}@{DATABASE}/galactic\n"
        )
        (place / "router.env").chmod(0o600)

    def _broker(self) -> None:
        place, pki = self.etc / "mosquitto", self.folder / "pki"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(SHIPPED, place)
        pki.mkdir()
        (self.folder / "lib").mkdir(mode=0o777)
        Path("/var/lib/mosquitto").mkdir(exist_ok=True)
        credentials.authority(pki / "ca", "the company's")
        credentials.issue(pki, place / "server", BROKER, [f"DNS:{BROKER}"])
        with (self.etc / BUNDLE).open("a") as known:
            known.write((pki / "ca.crt").read_text())
        shutil.copyfile(pki / "ca.crt", place / "clients-ca.pem")
        (place / "passwords").write_text(
            "".join(f"{name}:{hashed(self.passwords[name])}\n" for name in (ROUTER, "galactic-observer"))
        )
        config = place / "mosquitto.conf"
        config.write_text("user root\n" + config.read_text())  # in a folder that is root's
        log = self.folder / "mosquitto.log"
        process = self.start(["mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"], log)
        self.until("it listens", lambda: ":8884" in self.run("ss", "-Hlnt"), process, log)

    def _database(self) -> None:
        folder = self.folder / "database"
        postgres.make(folder, port=5432)
        programs = postgres.programs()
        log = self.folder / "postgres.log"
        process = self.start(postgres.command(folder), log)
        ready = ("-h", DATABASE, "-U", "galactic")
        self.until("it answers", lambda: self.run(str(programs / "pg_isready"), *ready), process, log)
        password = f"ALTER USER galactic PASSWORD '{self.passwords['database']}'"
        for command in (password, "CREATE DATABASE galactic"):
            assert self.run(str(programs / "psql"), *ready, "-d", "postgres", "-c", command), command

    def _copy_etc(self) -> None:
        """Of /etc as it is. That a file of it goes meanwhile, as when packages are installed, is no failure."""
        for left in reversed(range(COPIES)):
            done = subprocess.run(
                ["cp", "-a", "/etc", self.folder], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return
            assert left, done.stderr
            time.sleep(1)


def unit(name: str) -> dict[str, list[str]]:
    """Each key of the unit, with all its values."""
    found: dict[str, list[str]] = {}
    for line in (EXAMPLES / name).read_text().splitlines():
        key, is_there, value = line.partition("=")
        if is_there and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def hashed(password: str) -> str:
    """As mosquitto_passwd writes it: PBKDF2-HMAC-SHA512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
