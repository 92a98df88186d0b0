"""The plugin by itself: against servers that misbehave, and against none."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[3] / "src" / "cni_plugin" / "main.py"
CONFIG = b'{"cniVersion":"1.0.0","name":"blue","type":"galactic"}'
SHIPPED = "LIMIT_SECONDS = 20\n"
PATIENCE_SECONDS = 120


def limited(seconds):
    """The plugin's source with another time for the whole call."""
    text = PLUGIN.read_text()
    assert text.count(SHIPPED) == 1
    return text.replace(SHIPPED, f"LIMIT_SECONDS = {seconds}\n")


def run(command, path, body=CONFIG, *, plugin=None, stdout=subprocess.PIPE, **more):
    """Runs the plugin as a runtime does, but with time-outs for slow machines; or the one in a file.
    Without a body its standard input is closed.
    """
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/ns/1",
        "CNI_IFNAME": "galactic0",
    }
    if path:
        variables["GALACTIC_SOCKET"] = str(path)
    return subprocess.run(
        [sys.executable, "-ISE", *(["-c", limited(PATIENCE_SECONDS)] if plugin is None else [str(plugin)])],
        **({"preexec_fn": lambda: os.close(0)} if body is None else {"input": body}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=variables | more,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )


class Server:
    """Answers one request with the bytes given, and keeps what it got."""

    def __init__(self, path, reply):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.got, self.reply = b"", reply
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            while not self.whole():
                self.got += connection.recv(65536)
            connection.sendall(self.reply)

    def whole(self):
        head, separator, body = self.got.partition(b"\r\n\r\n")
        return separator and len(body) == int(head.rpartition(b"Content-Length: ")[2])

    def close(self):
        self.thread.join()
        self.listener.close()


def reply(status, body, length=None, kind="application/json"):
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("command", "verb"),
    [("ADD", "add"), ("DEL", "del"), ("CHECK", "check"), ("GC", "gc"), ("STATUS", "status")],
)
def test_one_request_body_untouched_variables_as_headers(tmp_path, command, verb):
    body = b' {"odd" :\t"\xff bytes"}\n'
    server = Server(tmp_path / "s", reply(200, b"{}"))
    done = run(command, tmp_path / "s", body, CNI_ARGS="K8S_POD_NAME=a;K8S_POD_NAMESPACE=b")
    server.close()
    head, _, sent = server.got.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert (done.returncode, done.stdout, sent) == (0, b"{}", body)
    assert lines[0] == f"POST /cni/v1/{verb} HTTP/1.1"
    assert {"CNI_CONTAINERID: c1", "CNI_NETNS: /ns/1", "CNI_ARGS: K8S_POD_NAME=a%3BK8S_POD_NAMESPACE=b"} <= {
        line.replace(";", "%3B") for line in lines
    }


def test_an_error_object_is_passed_on(tmp_path):
    server = Server(tmp_path / "s", reply(500, b'{"code":7}'))
    done = run("ADD", tmp_path / "s")
    server.close()
    assert (done.returncode, done.stdout) == (1, b'{"code":7}')


def test_values_cannot_end_their_header(tmp_path):
    server = Server(tmp_path / "s", reply(200, b"{}"))
    run(
        "ADD", tmp_path / "s", CNI_CONTAINERID="a\r\nEvil: yes", CNI_ARGS="x\n\n\x00y".replace("\x00", "\x01")
    )
    server.close()
    head = server.got.partition(b"\r\n\r\n")[0]
    assert b"\nEvil" not in head
    assert b"CNI_CONTAINERID: a%0D%0AEvil: yes" in head
    assert b"CNI_ARGS: x%0A%0A%01y" in head


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed-at-once"),
        pytest.param(reply(200, b'{"half', length=100), id="truncated"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="no-body"),
        pytest.param(reply(400, b"Bad Request", kind="text/plain"), id="not-ours"),
    ],
)
def test_half_an_answer_is_none(tmp_path, answer):
    server = Server(tmp_path / "s", answer)
    done = run("ADD", tmp_path / "s")
    server.close()
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


@pytest.mark.parametrize(
    ("command", "code"),
    [pytest.param("ADD", 11), pytest.param("CHECK", 11), pytest.param("GC", 11), ("STATUS", 50)],
)
def test_without_a_listener(tmp_path, command, code):
    done = run(command, tmp_path / "s", b'{"cniVersion":"0.4.0"}')
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"], error["cniVersion"]) == (1, code, "0.4.0")
    assert str(tmp_path / "s") in error["msg"]
    assert error["details"]


def test_a_del_is_kept_as_it_came(tmp_path):
    for _ in range(2):
        done = run("DEL", tmp_path / "s")
        assert (done.returncode, done.stdout) == (0, b"")
    kept = sorted((tmp_path / "pending").iterdir())
    assert len(kept) == 2
    for path in kept:
        head, _, body = path.read_bytes().partition(b"\r\n\r\n")
        assert body == CONFIG
        assert b"CNI_CONTAINERID: c1" in head
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_del_that_cannot_be_kept_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    done = run("DEL", tmp_path / "file" / "s")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


@pytest.mark.parametrize(
    ("given", "spoken"),
    [
        pytest.param(b"", "1.1.0", id="nothing"),
        pytest.param(b'{"cniVersion":"0.4.0"}', "0.4.0", id="ours"),
        pytest.param(b' {"a": [{"cniVersion": "9"}],\n"cniVersion" : "3.0.0"}\n', "3.0.0", id="another"),
        pytest.param(b"\xff{", "1.1.0", id="no-json"),
        pytest.param(b'{"cniVersion":5}', "1.1.0", id="no-text"),
        pytest.param(b"[" * 100_000, "1.1.0", id="deep"),
    ],
)
def test_version_is_answered_without_anybody_in_the_version_that_is_spoken(given, spoken):
    done = run("VERSION", None, given)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "cniVersion": spoken,
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", ["CNI_CONTAINERID"]),
        ("ADD", ["CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", ["CNI_IFNAME"]),
        ("CHECK", ["CNI_NETNS"]),
    ],
)
def test_missing_variables_are_named(tmp_path, command, missing):
    done = run(command, tmp_path / "s", **dict.fromkeys(missing, ""))
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 4)
    assert all(name in error["msg"] for name in missing)
    assert not (tmp_path / "pending").exists()


def test_a_del_needs_no_namespace(tmp_path):
    assert run("DEL", tmp_path / "s", CNI_NETNS="").returncode == 0


def test_no_input_at_all_is_a_failure_to_read(tmp_path):
    done = run("ADD", tmp_path / "s", None)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 5)


def test_a_runtime_that_does_not_listen_is_not_answered_with_a_traceback(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = run("ADD", tmp_path / "s", stdout=output)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("command", ["", "NONSENSE", "add"])
def test_unknown_commands(command, tmp_path):
    done = run(command, tmp_path / "s")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 4)


def test_too_much_is_refused(tmp_path):
    done = run("ADD", tmp_path / "s", b" " * ((1 << 20) + 1))
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 7)
    done = run("ADD", tmp_path / "s", CNI_ARGS="x" * 20_000)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 4)


def test_the_socket_can_be_named_in_a_file_beside_the_plugin(tmp_path):
    plugin = tmp_path / "galactic"
    plugin.write_bytes(PLUGIN.read_bytes())
    Path(f"{plugin}.socket").write_text(f"{tmp_path}/elsewhere\n")
    done = run("ADD", None, plugin=plugin)
    assert f"{tmp_path}/elsewhere" in json.loads(done.stdout)["msg"]


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_server_that_never_answers_is_given_up(tmp_path, command):
    """With the limit shortened to a second, or to more where the plugin needed that to come so far."""
    plugin = tmp_path / "galactic"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        for seconds in (1, 2, 4, 8, 16, 32, 64):
            plugin.write_text(limited(seconds))
            for kept in tmp_path.glob("pending/*"):
                kept.unlink()
            done = run(command, tmp_path / "s", plugin=plugin)
            with suppress(BlockingIOError):
                connection, _ = listener.accept()
                with connection:
                    asked = connection.recv(65536)
                if asked.endswith(CONFIG):
                    break
    if command == "DEL":
        assert (done.returncode, len(list((tmp_path / "pending").iterdir()))) == (0, 1)
    else:
        error = json.loads(done.stdout)
        assert (error["code"], error["details"]) == (11, f"no answer within {seconds} s")


def test_little_is_imported():
    listing = "import sys; exec(open(sys.argv[1]).read(), {'__name__': 'plugin'}); print(*sys.modules)"
    program = [sys.executable, "-ISE", "-c", listing, str(PLUGIN)]
    loaded = set(subprocess.run(program, capture_output=True, text=True, check=True).stdout.split())
    assert {"posix", "_signal"} <= loaded
    assert not {"json", "socket", "signal", "enum", "re", "pathlib", "logging"} & loaded
    assert not re.search(
        r"^\s*(import|from) (?!_signal|posix|sys|_socket|_json|time)", PLUGIN.read_text(), re.MULTILINE
    )
