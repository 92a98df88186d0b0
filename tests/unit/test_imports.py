"""Start-up: a process imports no library that only an option needs."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("program", "library"),
    [
        pytest.param("galactic.node", "cryptography", id="node"),  # request_broker_certificate
        pytest.param("galactic.operator", "cryptography", id="operator"),  # issue_broker_certificates
    ],
)
def test_no_library_of_an_option(program: str, library: str) -> None:
    """9 MiB of RSS on every node, which most clusters would pay for nothing."""
    script = f"import sys, {program}.__main__; print({library!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
