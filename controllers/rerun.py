#!/opt/galactic/bin/python3 -I
"""The development image's stand-in for each command: runs the real one, and starts it again at SIGHUP.

It has the name of the command. As process 1 of a container it outlives the command: with the container its replaced
files would be lost. A command that ends by itself is started again at the next SIGHUP.
"""

import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = Path("/opt/galactic/bin")
GRACE_SECONDS = 10.0
WAITED_FOR = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def main() -> int:
    """The exit code of the command that ran last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)  # process 1 receives these signals alone
    command = [str(COMMANDS / Path(sys.argv[0]).name), *sys.argv[1:]]
    running = _started(command)
    ended = False
    while True:
        number = signal.sigwait(WAITED_FOR)
        if number == signal.SIGCHLD:
            if running.poll() is not None and not ended:
                ended = True
                _report(f"{command[0]} ended with {running.returncode}; SIGHUP starts it again")
            continue
        _end(running)
        if number != signal.SIGHUP:
            return running.returncode
        _report(f"starting {command[0]} again")
        running, ended = _started(command), False


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    """With no signal blocked: the mask is inherited."""
    return subprocess.Popen(
        command,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()),  # noqa: PLW1509  (one thread)
    )


def _end(running: "subprocess.Popen[bytes]") -> None:
    if running.poll() is None:
        running.terminate()
    try:
        running.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def _report(text: str) -> None:
    sys.stderr.write(f"rerun: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
