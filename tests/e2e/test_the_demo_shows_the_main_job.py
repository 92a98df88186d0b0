"""`galactic demo` shows what the README promises, and fails with a message where a promise is not kept."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from galactic_lab.cluster import Lab
from galactic_lab.state import checkout

GALACTIC = Path(sys.executable).with_name("galactic")


@pytest.fixture
def examples(lab: Lab) -> Iterator[None]:
    """Nothing of the examples is there before, and what is there goes afterwards."""
    lab.kubectl("wait", "--for=delete", "namespace/blue", "namespace/green", "--timeout=400s", check=False)
    yield
    lab.kubectl("delete", "-f", str(checkout() / "examples"), "--ignore-not-found", "--wait=false")


@pytest.mark.usefixtures("examples")
def test_demo(lab: Lab) -> None:
    argv = [str(GALACTIC), "demo", "--name", lab.state.name]
    shown = subprocess.run(
        argv, capture_output=True, text=True, timeout=900, check=False, env=os.environ | {"COLUMNS": "160"}
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "The results are as expected" in shown.stdout
    assert shown.stdout.count("✗") == 0
    assert "2001:db8:ff01:100:ffff:ffff:ffff:ffff > 2001:db8:ff02:100:" in shown.stdout, "no SRv6 packet"

    # One row is not as expected: green/two does not answer over IPv6.
    lab.run("pod/green/two", ["sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all=1"])
    broken = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    assert broken.returncode == 1
    table, traced = (" ".join(part.split()) for part in broken.stdout.split("▸ galactic trace "))
    assert table.count("✗") == 1
    assert "green/one 2001:10:1:1::2" in traced
    assert "3 echo requests went into it" in traced
    assert "it may not answer pings" in traced
    assert "not as expected" in traced
