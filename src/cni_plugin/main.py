# Uses the C modules posix, _json and _socket directly: importing os, json and socket would double the time to start.
# ruff: noqa: PLC0415, TRY301, SIM105
"""One CNI call as one HTTP request over the node controller's unix socket.

``POST /cni/v1/<add|del|check|gc|status>``, body = stdin untouched, the ``CNI_*`` variables as headers (percent-encoded,
so that no value can end its header). The reply's body goes to stdout; its status decides between exit 0 and 1.

While the node controller is away: ADD fails with CNI's code 11 (the kubelet tries again), STATUS with 50, and DEL is
written as it came, to ``pending/`` beside the socket, and succeeds: a DEL that fails would block the pod's deletion.

The socket is ``$GALACTIC_SOCKET``, else the path in the file ``<this executable>.socket`` (a kubelet passes no
variables of ours), else /var/run/galactic/agent.sock.
"""

import _signal  # type: ignore[import-not-found]  # the C half of signal, without enum
import posix
import sys

SOCKET = "/var/run/galactic/agent.sock"
VARIABLES = (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH")
COMMANDS = {"ADD": "add", "DEL": "del", "CHECK": "check", "GC": "gc", "STATUS": "status"}
REQUIRED = {
    "ADD": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
    "DEL": (b"CNI_CONTAINERID", b"CNI_IFNAME"),
    "CHECK": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
}
"""The variables that a call needs; a DEL without them must not be kept for later."""
VERSION = "1.1.0"
SUPPORTED = '["0.3.1","0.4.0","1.0.0","1.1.0"]'
LIMIT_SECONDS = 20
MAX_BYTES = 1 << 20
"""Of a network configuration, and of a reply."""
MAX_VALUE = 16 << 10
PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/=;:,@+ ")

# https://www.cni.dev/docs/spec/#error
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE, BROKEN = 4, 5, 7, 11, 50, 101


class Refused(Exception):
    """(code, message) of the CNI error."""


class TooLong(OSError):
    """The time for the whole call is over."""


def main() -> int:
    """The exit code."""
    body = b""
    try:
        _signal.signal(_signal.SIGALRM, _too_long)
        _signal.alarm(LIMIT_SECONDS)
        command = _variable(b"CNI_COMMAND").decode("utf-8", "replace")
        if command == "VERSION":
            return _version()
        if command not in COMMANDS:
            known = ", ".join((*COMMANDS, "VERSION"))
            raise Refused(INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}; it must be one of {known}")
        if missing := [name.decode() for name in REQUIRED.get(command, ()) if not _variable(name)]:
            raise Refused(INVALID_ENVIRONMENT, f"{command} needs {', '.join(missing)}, which is not set")
        body = _stdin()
        return _call(command, body)
    except Refused as refusal:
        return _fail(body, *refusal.args)
    except Exception as error:  # noqa: BLE001 - a runtime reads nothing but error objects
        return _fail(body, BROKEN, f"the plugin itself failed: {type(error).__name__}: {error}")


def _call(command: str, body: bytes) -> int:
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


def _too_long(_number: int, _frame: object) -> None:
    raise TooLong(f"no answer within {LIMIT_SECONDS} s")


def _variable(name: bytes) -> bytes:
    return posix.environ.get(name, b"")


def _stdin() -> bytes:
    data = b""
    try:
        while chunk := posix.read(0, 65536):
            data += chunk
            if len(data) > MAX_BYTES:
                raise Refused(INVALID_CONFIG, f"the network configuration is larger than {MAX_BYTES} bytes")
    except TooLong:
        raise Refused(
            IO_FAILURE, f"the network configuration did not arrive within {LIMIT_SECONDS} s"
        ) from None
    except OSError as error:
        raise Refused(IO_FAILURE, f"the network configuration cannot be read: {error}") from error
    return data


def _socket_path() -> str:
    if path := _variable(b"GALACTIC_SOCKET"):
        return path.decode("utf-8", "surrogateescape")
    try:
        descriptor = posix.open(f"{sys.argv[0]}.socket", posix.O_RDONLY)
    except OSError:
        return SOCKET
    try:
        return posix.read(descriptor, 4096).strip().decode("utf-8", "surrogateescape") or SOCKET
    finally:
        posix.close(descriptor)


def _request(verb: str, body: bytes) -> bytes:
    lines = [
        f"POST /cni/v1/{verb} HTTP/1.1\r\nHost: galactic\r\nConnection: close\r\nContent-Type: application/json"
    ]
    for name in VARIABLES:
        value = _variable(name)
        if len(value) > MAX_VALUE:
            raise Refused(INVALID_ENVIRONMENT, f"{name.decode()} is longer than {MAX_VALUE} bytes")
        if value:
            lines.append(f"{name.decode()}: " + "".join(chr(b) if b in PLAIN else f"%{b:02X}" for b in value))
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def _exchange(path: str, request: bytes) -> tuple[bool, bytes]:
    """Whether it went well, and the reply's body. Raises OSError where there is no whole reply."""
    import _socket

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
            _keep(path.rpartition("/")[0], request)
        except OSError as failure:
            return _fail(body, TRY_AGAIN, what, f"and the request could not be kept for it: {failure}")
        return 0
    return _fail(body, NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN, what, str(error))


def _keep(directory: str, request: bytes) -> None:
    """The request lies in ``pending/``, under a name of its own, whole or not at all.

    Not synced: it lies beside the socket, on a file system that a reboot empties, and what it asks to have deleted is
    in the kernel, which a reboot empties as well.
    """
    import time

    pending = f"{directory}/pending"
    for folder in (directory, pending):
        try:
            posix.mkdir(folder, 0o700)
        except FileExistsError:
            pass
    final = f"{pending}/{time.time_ns():020d}-{posix.getpid()}"
    partial = f"{final}.partial"
    descriptor = posix.open(partial, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o600)
    try:
        _write(descriptor, request)
    finally:
        posix.close(descriptor)
    posix.rename(partial, final)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[posix.write(descriptor, data) :]


def _version() -> int:
    try:
        given = b"" if posix.isatty(0) else _stdin()
    except Refused:  # the answer does not need it
        given = b""
    _write(
        1, f'{{"cniVersion":{_quoted(_spoken(given, VERSION))},"supportedVersions":{SUPPORTED}}}\n'.encode()
    )
    return 0


def _fail(body: bytes, code: int, message: str, details: str = "") -> int:
    """Prints an error object in the version that the caller speaks."""
    text = (
        f'{{"cniVersion":{_quoted(_spoken(body, "1.0.0"))},"code":{code},'
        f'"msg":{_quoted(message)},"details":{_quoted(details)}}}\n'
    )
    try:
        _write(1, text.encode())
    except OSError:  # the runtime has closed the pipe
        pass
    return 1


def _spoken(body: bytes, default: str) -> str:
    """The ``cniVersion`` of a configuration, ``default`` where it has none that can be read."""
    if not body:
        return default
    from _json import make_scanner

    class Context:
        strict, object_hook, object_pairs_hook = True, None, None
        parse_float, parse_int, parse_constant = float, int, float
        memo: dict[str, str] = {}  # noqa: RUF012

    try:
        config, _ = make_scanner(Context())(body.decode().strip(), 0)  # type: ignore[arg-type]
        version = config["cniVersion"]
    except (StopIteration, ValueError, LookupError, TypeError, RecursionError, ImportError):
        return default  # ImportError: how _json complains where there is no json
    return version if isinstance(version, str) and len(version) < 32 else default


def _quoted(text: str) -> str:
    if text.isascii() and text.replace(".", "").isalnum():
        return f'"{text}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)


if __name__ == "__main__":
    sys.exit(main())
