"""The packet filter's process is started often, on each node, and mostly to find that nothing is to be done: it brings
nothing along that takes longer than its work.
"""

import os
import subprocess
import sys

SLOW = ("asyncio", "importlib.metadata", "pydantic", "pyroute2", "setuptools")


def test_it_imports_nothing_slow() -> None:
    script = f"print(*(set({SLOW!r}) & set(sys.modules)))"
    program = f"import sys, galactic.linux.iptables as one; one.legacy._iptc(); {script}"
    variables = os.environ | {"SETUPTOOLS_USE_DISTUTILS": "stdlib"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
