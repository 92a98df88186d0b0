"""The examples of a router outside of any cluster: settings that a router accepts, and a unit that systemd accepts. The
program of the unit, and the container, run with a broker and a database in tests/image.
"""

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from outside import EXAMPLES, unit

from galactic_lab.builds import packages

CHECK = """
import sys
from galactic.settings import RouterSettings, load
print(load(RouterSettings, sys.argv[1:]).mqtt_url)
"""
PASSWORD = {"GALACTIC_MQTT_PASSWORD": "x"}


def understood(arguments: list[str], **variables: str) -> str:
    """The broker's URL as a router with these settings knows it. Fails with what it complains about."""
    command = [sys.executable, "-c", CHECK, *arguments]
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def admissions(tmp_path: Path) -> Path:
    return EXAMPLES / "admissions.yaml"


def test_the_settings_file(tmp_path: Path, admissions: Path) -> None:
    settings = yaml.safe_load((EXAMPLES / "router.yaml").read_text())
    path = tmp_path / "router.yaml"
    path.write_text(yaml.safe_dump(settings | {"admissions": str(admissions)}))
    assert understood([f"--config={path}"], **PASSWORD) == settings["mqtt_url"]


def test_the_container(admissions: Path) -> None:
    given = unit("galactic-router.container")
    variables = dict(assignment.split("=", 1) for assignment in given["Environment"])
    secret = PASSWORD | {"GALACTIC_DATABASE_URL": "postgresql://u:p@h/d"}
    assert understood([], **variables, **secret) == variables["GALACTIC_MQTT_URL"]
    assert variables["GALACTIC_ADMISSIONS"] in given["Volume"][0].split(":")
    assert given["Exec"] == ["galactic-router"]


def test_the_command_line_in_its_comment() -> None:
    text = (EXAMPLES / "galactic-router.container").read_text()
    lines = [
        line.removeprefix("#").strip().rstrip("\\") for line in text.splitlines() if line.startswith("#   ")
    ]
    command = shlex.split(" ".join(line for line in lines if "…" not in line))
    flags = command[command.index("galactic-router", command.index("galactic:0.1.0")) + 1 :]
    assert len(flags) == 5
    assert understood(flags, **PASSWORD) == "mqtts://broker.example.net:8884"


@pytest.mark.parametrize("name", ["galactic-router.service", "galactic-router.container"])
def test_units_are_well_formed(name: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(EXAMPLES / name)
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    assert parser["Service"]["Restart"] == "always"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a host with systemd's own units, and Galactic installed."""
    packages.install(["systemd"])
    units = next(
        path for path in map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system")) if path.is_dir()
    )
    shutil.copytree(units, tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for folder in ("usr/local/bin", "etc/systemd/system"):
        (tmp_path / folder).mkdir(parents=True)
    program = tmp_path / "usr/local/bin/galactic-router"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    shutil.copy(EXAMPLES / UNIT, tmp_path / "etc/systemd/system")
    return tmp_path


UNIT = "galactic-router.service"


def verified(host: Path, *words: str) -> str:
    """The errors that systemd finds in it."""
    done = subprocess.run(
        ["systemd-analyze", *words, f"--root={host}", UNIT], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if UNIT in line]
    return "\n".join(complaints) or ("" if done.returncode == 0 else done.stdout + done.stderr)


def test_systemd_takes_the_unit(host: Path) -> None:
    assert not verified(host, "verify", "--man=no")
    unit = host / "etc/systemd/system" / UNIT
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in verified(host, "verify", "--man=no")


def test_the_unit_may_do_little(host: Path) -> None:
    """As systemd counts it: from 0 (nothing) to 10 (everything)."""
    assert not verified(host, "security", "--offline=yes", "--threshold=20", "--no-pager")
    unit = host / "etc/systemd/system" / UNIT
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert verified(host, "security", "--offline=yes", "--threshold=20", "--no-pager")
