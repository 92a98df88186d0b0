"""The plugin that containerd calls for each pod: it hands the call to the daemon (``multus``), and prints its answer.

A call is the CNI_* variables as ``NAME=value``, each ended by a NUL, another NUL, and the standard input; the answer is
the exit status, one digit, and the output. Each call starts an interpreter, inside a guest where imports take a
multiple of the usual time: so nothing is imported but C modules.
"""

import posix
import sys
import time
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket

SOCKET = "/run/cni/multus.sock"
VERSION = '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}'
FAILURE = b'1{"cniVersion": "1.0.0", "code": %d, "msg": "multus: its daemon: %s"}'
TRY_AGAIN = 11
"""An error code of CNI."""
TRIES = 50
PAUSE_SECONDS = 0.1
BYTES = 1 << 16


def main() -> int:
    """One call of the plugin; the exit status."""
    if posix.environ.get(b"CNI_COMMAND") == b"VERSION":
        print(VERSION)
        return 0
    variables = [b"%s=%s\0" % pair for pair in posix.environ.items() if pair[0].startswith(b"CNI_")]
    call = b"".join(variables) + b"\0" + sys.stdin.buffer.read()
    try:
        reply = _exchange(call) or FAILURE % (999, b"failed")
    except OSError as error:
        reply = FAILURE % (TRY_AGAIN, str(error).encode())
    sys.stdout.buffer.write(reply[1:])
    return int(reply[:1])


def _exchange(call: bytes) -> bytes:
    """The daemon's answer. A daemon that starts is waited for."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    for left in reversed(range(TRIES)):
        try:
            connection.connect(SOCKET)
            break
        except OSError:
            if not left:
                raise
            time.sleep(PAUSE_SECONDS)
    connection.sendall(call)
    connection.shutdown(SHUT_WR)
    parts = [b""]
    while part := connection.recv(BYTES):
        parts.append(part)
    return b"".join(parts)
