"""The development image does what the Tiltfile expects: sources are replaced where they are imported from, and SIGHUP
starts the command again with them.
"""

import re
import signal
from pathlib import Path

import pytest
from container import NODE
from waiting import eventually, free_port

from release.distributions import ROOT

ROUTER = ("galactic-router", "--kubernetes", "false", "--require-entitlements", "false", "--mqtt-url")


def place(development) -> Path:
    """Where the Tiltfile's live_update writes."""
    found = re.search(r"sync\('controllers/galactic', '(.+)'\)", (ROOT / "Tiltfile").read_text())
    assert found
    return development.root / found[1][1:]


@pytest.mark.parametrize(
    ("user", "capabilities"), [pytest.param(65532, (), id="router"), pytest.param(0, NODE, id="node")]
)
def test_sources_are_writable_for_any_user(development, user, capabilities):
    """User 0 without CAP_DAC_OVERRIDE has no special rights. Tilt unpacks a tar archive."""
    container = development.container(user=user, capabilities=capabilities, writable=True)
    target = place(development).relative_to(development.root)
    script = f"cd /{target}/router && test -f __main__.py && : >> __main__.py && touch new && rm new && tar --version"
    done = container.run("/bin/sh", "-c", script)
    assert done.returncode == 0, done.stderr


def test_sighup_starts_it_again_with_replaced_sources(development):
    container = development.container(writable=True)
    source = place(development) / "router/__main__.py"
    whole = source.read_text()
    process = container.start(*ROUTER, f"mqtt://127.0.0.1:{free_port()}", "--metrics-port", "0")
    try:
        eventually(lambda: '"starting"' in process.output, unless=process.alive)
        source.write_text(whole.replace("\ndef main()", "\nsys.stderr.write('replaced\\n')\n\n\ndef main()"))
        process.send(signal.SIGHUP)
        eventually(lambda: "replaced\n" in process.output, unless=process.alive)
        source.write_text(f"not python\n{whole}")
        process.send(signal.SIGHUP)
        eventually(lambda: "SIGHUP starts it again" in process.output, unless=process.alive)
        source.write_text(whole)
        before = process.output.count('"starting"')
        process.send(signal.SIGHUP)
        eventually(lambda: process.output.count('"starting"') > before, unless=process.alive)
        eventually(lambda: "broker" in process.output.rpartition('"starting"')[2], unless=process.alive)
        assert process.end()[0] == 0
    finally:
        source.write_text(whole)
        process.process.kill()


def test_a_command_that_cannot_start_is_reported_and_sigterm_ends_it(development):
    process = development.container().start("galactic-node")
    eventually(lambda: "galactic-node ended with" in process.output, unless=process.alive)
    assert process.end()[0] != 0
