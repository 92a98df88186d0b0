"""The lab's certificates hold where they are verified strictly, as Python does from 3.13 on."""

import subprocess
from pathlib import Path

from galactic_lab.controlplane import credentials


def test_certificates_are_valid_by_strict_rules(tmp_path: Path) -> None:
    credentials.authority(tmp_path / "ca", "lab")
    credentials.issue(tmp_path, tmp_path / "server", "server", ["DNS:localhost", "IP:::1"])
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        str(tmp_path / "ca.crt"),
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "server.crt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
