"""What kubectl is for those who follow a page: it asks again what somebody was too late to answer, as they would.

``patient.py KUBECTL argument…``. What the tries have done is shown as one: what the first one made is not "unchanged".
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

WRITES = ("annotate", "apply", "create", "delete", "label", "patch", "scale")
LIMIT, MORE = re.compile(r"^--timeout=(\d+)s$"), 5
"""What a page waits for, a slow machine waits for some times as long."""
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
    from galactic_lab.places import DONE_AFTER_ALL, HELD_UP  # whoever only reads does not pay for it

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
        said = done.stdout.splitlines(keepends=True)
        shown += [line for line in said if not (again and line.endswith(" unchanged\n"))]
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
