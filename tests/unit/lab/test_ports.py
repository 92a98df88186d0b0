"""Ports that are kept for servers that start later."""

import subprocess
import sys

PROGRAM = """
import socket
from pathlib import Path
from galactic_lab.controlplane import ports

Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40001")
server = socket.create_server(("0.0.0.0", 5000))
client = socket.create_connection(("127.0.0.9", 5000), source_address=("127.0.0.8", 40000))
for _ in range(20):
    holder = ports.kept()
    assert ports.number(holder) == 40001, "a listener on all addresses could not have the other one"
    holder.close()
holder = ports.kept()
try:
    other = ports.kept()
except OSError:
    pass
else:
    raise AssertionError(f"{ports.number(other)} was given out again")
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    socket.create_server((address, 40001), family=family).close()
print("fine")
"""


def test_a_kept_port_is_free_on_all_addresses() -> None:
    """In a network namespace that has two ports for all."""
    script = 'ip link set lo up && exec "$0" -c "$1"'
    result = subprocess.run(
        ["unshare", "-rn", "sh", "-c", script, sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "fine\n", result.stderr
