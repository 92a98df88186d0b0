"""kubectl for those who follow a page: it repeats a request that a slow server did not answer in time, as they would.

``patient.py KUBECTL argument…``. The output of all attempts is shown as one: an object that the first attempt made is
not "unchanged".
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

WRITES = ("annotate", "apply", "create", "delete", "label", "patch", "scale")
LIMIT, MORE = re.compile(r"^--timeout=(\d+)s$"), 5
"""A page's ``--timeout`` is multiplied by this, for slow machines."""
SECONDS = 180.0


def at_hand(folder: Path, kubectl: Path) -> str:
    """The folder, with that as its kubectl: for PATH."""
    folder.mkdir()
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {__file__} {kubectl} "$@"\n')
    program.chmod(0o755)
    return str(folder)


def main() -> None:
    program, *given = sys.argv[1:]
    arguments = [LIMIT.sub(lambda found: f"--timeout={MORE * int(found[1])}s", word) for word in given]
    if not set(WRITES) & set(arguments[:1]):
        os.execv(program, [program, *arguments])  # noqa: S606  (no shell is the point)
    # Imported here: a command that only reads is faster without.
    from galactic_lab.places import DONE_AFTER_ALL, HELD_UP

    manifest = sys.stdin.read() if "-" in arguments else None
    deadline, shown, again = time.monotonic() + SECONDS, list[str](), False
    while True:
        done = subprocess.run(
            [program, *arguments],
            input=manifest,
            stdin=subprocess.DEVNULL if manifest is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines(keepends=True)
        shown += [line for line in lines if not (again and line.endswith(" unchanged\n"))]
        made = again and f"({DONE_AFTER_ALL.get(arguments[0])})" in done.stderr
        if made or not HELD_UP.search(done.stderr) or time.monotonic() > deadline:
            break
        again = True
        time.sleep(1)
    sys.stdout.write("".join(shown))
    sys.stderr.write(done.stderr)
    sys.exit(0 if made else done.returncode)


if __name__ == "__main__":
    main()
