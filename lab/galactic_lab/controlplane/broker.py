"""The lab's MQTT broker: Mosquitto with the shipped configuration and access list, ``deploy/mosquitto``.

Only the paths of its files differ. Every node and every router of a lab has a user and a password of its own, with the
rights of the access list. ``galactic-observer`` and ``galactic-recorder`` may subscribe to everything.
"""

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from galactic_lab.controlplane import credentials
from galactic_lab.processes import Program
from galactic_lab.state import CONTROL, MAX_ROUTERS, MQTT_PORT, State, checkout

OBSERVER: Final = "galactic-observer"
RECORDER: Final = "galactic-recorder"
FORGET_SECONDS: Final = 60.0
OWNERS: Final = ("mosquitto", "nobody")
"""The user that Mosquitto runs as when root starts it: the first of these that exists."""
_OPERATOR: Final = ".operator"
"""In a cluster's folder of secrets: the one of its operator, whose user is the cluster's name."""
PLACES: Final = {"/etc/mosquitto/": "", "/var/lib/mosquitto/": "data/"}


def router(number: int) -> str:
    """The user of the router with that number, from 0."""
    return f"galactic-router-{number}"


def node(state: State, name: str) -> str:
    """The user of a node, with its cluster's name."""
    return f"{state.cluster}/{name}"


def users(state: State) -> list[str]:
    """All users of the lab."""
    nodes = [node(state, member.name) for member in state.members]
    return [OBSERVER, RECORDER, state.cluster, *map(router, range(MAX_ROUTERS)), *nodes]


def program(state: State, mosquitto: Path) -> Program:
    """Mosquitto, with all that its configuration names."""
    _prepare(state)
    return Program("mosquitto", [str(mosquitto), "-c", str(state.broker / "mosquitto.conf")], priority=100)


def admit(state: State, names: Iterable[str]) -> None:
    """Gives these users passwords. A running broker reads them at SIGHUP."""
    folder = state.broker / "secrets"
    for name in names:
        path = _secret(state, name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    known = [(path.parent if path.name == _OPERATOR else path, path) for path in paths]
    known = [(user.relative_to(folder), path) for user, path in known]
    partial = state.broker / "passwords.partial"
    partial.touch(mode=0o600)
    partial.write_text("".join(f"{user}:{path.read_text()}\n" for user, path in known))
    subprocess.run(["mosquitto_passwd", "-U", partial], check=True, capture_output=True)
    _give(partial)
    partial.rename(state.broker / "passwords")


def forget(state: State) -> None:
    """Removes the retained messages and the passwords of a lab's nodes, if the broker runs."""
    inside = ["nsenter", f"--net=/run/netns/{state.host.namespace}", "--"]
    for name in (node(state, member.name) for member in state.members):
        secret = _secret(state, name)
        if not secret.exists():
            continue
        for last in ("status", "endpoints"):
            topic = ["-r", "-n", "-t", f"galactic/v1/nodes/{name}/{last}"]
            argv = [*inside, *client(state, "mosquitto_pub", name), *topic]
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(argv, capture_output=True, check=False, timeout=FORGET_SECONDS)
        secret.unlink()
    if state.broker.exists():
        admit(state, ())


def variables(state: State, user: str) -> dict[str, str]:
    """The environment that connects a controller as ``user``."""
    return {
        "GALACTIC_MQTT_URL": state.mqtt_url,
        "GALACTIC_MQTT_CA_FILE": str(state.broker / "ca.crt"),
        "GALACTIC_MQTT_USERNAME": user,
        "GALACTIC_MQTT_PASSWORD_FILE": str(_secret(state, user)),
    }


def client(state: State, name: str, user: str = OBSERVER) -> list[str]:
    """The argv of ``mosquitto_sub`` or ``mosquitto_pub`` as ``user``, for the control plane's namespace.

    A user is one client: a second one ends the session of the first.
    """
    password = _secret(state, user).read_text()
    address = [name, "-h", str(CONTROL), "-p", str(MQTT_PORT), "--cafile", str(state.broker / "ca.crt")]
    return [*address, "-u", user, "-P", password, "-q", "1"]


def _secret(state: State, user: str) -> Path:
    """The file with a user's password."""
    folder = state.broker / "secrets"
    return folder / user / _OPERATOR if user == state.cluster else folder / user


def _prepare(state: State) -> None:
    shipped, folder = checkout() / "deploy/mosquitto", state.broker
    (folder / "data").mkdir(parents=True, exist_ok=True)
    text = (shipped / "mosquitto.conf").read_text()
    for place, here in PLACES.items():
        text = text.replace(place, f"{folder}/{here}")
    (folder / "mosquitto.conf").write_text(
        f"# deploy/mosquitto/mosquitto.conf, with the lab's places\n\n{text}"
    )
    shutil.copyfile(shipped / "acl", folder / "acl")
    if not (folder / "server.crt").exists():
        credentials.authority(folder / "clients-ca", "galactic-lab-clients")
        shutil.copyfile(folder / "clients-ca.crt", folder / "clients-ca.pem")
        credentials.issue(state.root / "pki", folder / "server", "mosquitto", [f"IP:{CONTROL}", "IP:::1"])
    shutil.copyfile(state.root / "pki" / "ca.crt", folder / "ca.crt")
    admit(state, users(state))
    for path in (folder / "data", folder / "acl", folder / "clients-ca.pem", *folder.glob("server.*")):
        _give(path)


def _give(path: Path) -> None:
    """Only the broker may read the file."""
    for owner in OWNERS:
        try:
            entry = pwd.getpwnam(owner)
        except KeyError:
            continue
        os.chown(path, entry.pw_uid, entry.pw_gid)
        path.chmod(0o700 if path.is_dir() else 0o600)
        return
