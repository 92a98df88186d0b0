"""Commands in the guest over the agent's wire."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

from galactic_lab.kernel import remote
from galactic_lab.kernel.agent import serve_one
from galactic_lab.kernel.remote import EXIT, STDIN, STDOUT, frame, read_frame, send

PATIENCE_SECONDS = 120


def connected(*argv: str) -> tuple[socket.socket, threading.Thread]:
    """The near end of a connection over which a command was asked for."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE_SECONDS)
    agent = threading.Thread(target=serve_one, args=(far,), daemon=True)
    agent.start()
    body = json.dumps({"argv": argv}).encode()
    near.sendall(len(body).to_bytes(4, "big") + body)
    return near, agent


def test_output_and_status():
    near, agent = connected("sh", "-c", "echo hello; exit 3")
    with near:
        assert read_frame(near) == (STDOUT, b"hello\n")
        assert read_frame(near) == (EXIT, b"3")
    agent.join(PATIENCE_SECONDS)
    assert not agent.is_alive()


def test_input_that_comes_after_the_command_has_ended_breaks_nothing():
    """It is on its way already: to close before it was read would reset the connection."""
    near, agent = connected("true")
    with near:
        assert read_frame(near) == (EXIT, b"0")
        assert near.recv(1) == b"", "the agent has sent everything"
        near.sendall(frame(STDIN))
    agent.join(PATIENCE_SECONDS)
    assert not agent.is_alive()


def test_the_receiver_of_a_frame_may_be_gone():
    near, far = socket.socketpair()
    far.close()
    with near:
        send(near, frame(STDIN))


def test_who_reads_no_further_ends_it_without_a_word(tmp_path: Path):
    """As `galactic lab exec … | head` does: it is no fault of the lab's kernel."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        agent = threading.Thread(target=lambda: serve_one(listener.accept()[0]), daemon=True)
        agent.start()
        with subprocess.Popen(
            [sys.executable, remote.__file__, str(path), "{}", "--", "yes"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout
            assert process.stderr
            assert process.stdout.read(1) == b"y"
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(PATIENCE_SECONDS) == 141
        agent.join(PATIENCE_SECONDS)
        assert not agent.is_alive(), "the command has ended with it"
