# pathlib, logging and imports that are not always needed cost more here than all the rest.
# ruff: noqa: PTH103, PTH104, PTH118, PTH120, PLC0415, T201, TRY300, TRY301
"""One CNI call as one HTTP request over the node controller's unix socket.

``POST /cni/v1/<add|del|check|gc|status>``, body = stdin untouched, the ``CNI_*`` variables as headers (percent-encoded,
so that no value can end its header). The reply's body goes to stdout; its status decides between exit 0 and 1.

While the node controller is away: ADD fails with CNI's code 11 (the kubelet tries again), STATUS with 50, and DEL is
written as it came, to ``pending/`` beside the socket, and succeeds: a DEL that fails would block the pod's deletion.

The socket is ``$GALACTIC_SOCKET``, else what the file ``<this executable>.socket`` says (a kubelet passes no variables
of ours), else /var/run/galactic/agent.sock.
"""

import _signal  # type: ignore[import-not-found]  # the C half of signal, without enum
import _socket
import os
import sys

SOCKET = "/var/run/galactic/agent.sock"
VARIABLES = (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH")
COMMANDS = {"ADD": "add", "DEL": "del", "CHECK": "check", "GC": "gc", "STATUS": "status"}
VERSIONS = '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'
LIMIT_SECONDS = 20
MAX_BYTES = 1 << 20
"""Of a network configuration, and of a reply."""
MAX_VALUE = 16 << 10
PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/=;:,@+ ")

# https://www.cni.dev/docs/spec/#error
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = 4, 5, 7, 11, 50


class Refused(Exception):
    """(code, message): what the CNI error says."""


class TooLong(OSError):
    """The time for the whole call is over."""


def main() -> int:
    command = os.environ.get("CNI_COMMAND", "")
    if command == "VERSION":
        print(VERSIONS)
        return 0
    body = b""
    try:
        _signal.signal(_signal.SIGALRM, _too_long)
        _signal.alarm(LIMIT_SECONDS)
        body = _stdin()
        if command not in COMMANDS:
            known = ", ".join((*COMMANDS, "VERSION"))
            raise Refused(INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}; it must be one of {known}")
        path = _socket_path()
        request = _request(COMMANDS[command], body)
        try:
            good, reply = _exchange(path, request)
        except OSError as error:
            _signal.alarm(0)
            return _away(command, path, request, body, error)
        _signal.alarm(0)
        _write(1, reply)
        return 0 if good else 1
    except TooLong:
        return _fail(body, IO_FAILURE, f"the network configuration did not arrive within {LIMIT_SECONDS} s")
    except Refused as refusal:
        return _fail(body, *refusal.args)


def _too_long(_number: int, _frame: object) -> None:
    raise TooLong(f"no answer within {LIMIT_SECONDS} s")


def _stdin() -> bytes:
    data = b""
    while chunk := os.read(0, 65536):
        data += chunk
        if len(data) > MAX_BYTES:
            raise Refused(INVALID_CONFIG, f"the network configuration is larger than {MAX_BYTES} bytes")
    return data


def _socket_path() -> str:
    if path := os.environ.get("GALACTIC_SOCKET"):
        return path
    try:
        descriptor = os.open(f"{sys.argv[0]}.socket", os.O_RDONLY)
    except OSError:
        return SOCKET
    try:
        return os.fsdecode(os.read(descriptor, 4096).strip()) or SOCKET
    finally:
        os.close(descriptor)


def _request(verb: str, body: bytes) -> bytes:
    lines = [
        f"POST /cni/v1/{verb} HTTP/1.1\r\nHost: galactic\r\nConnection: close\r\nContent-Type: application/json"
    ]
    for name in VARIABLES:
        value = os.environb.get(name, b"")
        if len(value) > MAX_VALUE:
            raise Refused(INVALID_ENVIRONMENT, f"{name.decode()} is longer than {MAX_VALUE} bytes")
        if value:
            lines.append(f"{name.decode()}: " + "".join(chr(b) if b in PLAIN else f"%{b:02X}" for b in value))
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def _exchange(path: str, request: bytes) -> tuple[bool, bytes]:
    """Whether it went well, and the reply's body. Raises OSError where there is no whole reply."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
        connection.sendall(request)
        reply = b""
        while chunk := connection.recv(65536):
            reply += chunk
            if len(reply) > MAX_BYTES:
                raise OSError("the reply is too large")
    finally:
        connection.close()
    head, found, body = reply.partition(b"\r\n\r\n")
    head = head.lower()
    if not found or b"\r\ncontent-length: %d\r\n" % len(body) not in head + b"\r\n":
        raise OSError("the reply ended early")
    if b"\r\ncontent-type: application/json" not in head:
        raise OSError("the reply is not one of the node controller: " + head.decode("ascii", "replace")[:80])
    return head[9:12] == b"200", body


def _away(command: str, path: str, request: bytes, body: bytes, error: OSError) -> int:
    what = f"the Galactic node controller does not answer on {path}"
    if command == "DEL":
        try:
            _keep(os.path.dirname(path), request)
        except OSError as failure:
            return _fail(body, TRY_AGAIN, what, f"and the request could not be kept for it: {failure}")
        return 0
    return _fail(body, NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN, what, str(error))


def _keep(directory: str, request: bytes) -> None:
    """The request is on disk, under a name of its own, whole or not at all."""
    import time

    pending = os.path.join(directory, "pending")
    os.makedirs(pending, 0o700, exist_ok=True)
    final = os.path.join(pending, f"{time.time_ns():020d}-{os.getpid()}")
    partial = f"{final}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write(descriptor, request)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(partial, final)
    folder = os.open(pending, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _fail(body: bytes, code: int, message: str, details: str = "") -> int:
    import json  # only here: it costs as much as everything else together

    version = "1.0.0"
    try:
        given = json.loads(body)
        version = str(given["cniVersion"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    error = {"cniVersion": version, "code": code, "msg": message, "details": details}
    _write(1, json.dumps(error).encode() + b"\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
