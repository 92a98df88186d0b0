"""A router that has no database does not load the client of one."""

import subprocess
import sys


def test_psycopg_is_not_loaded() -> None:
    program = "import sys, galactic.router.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "galactic.router.startup" in modules
    assert "psycopg" not in modules
