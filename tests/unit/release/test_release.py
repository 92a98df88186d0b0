"""Which engine `make image` takes, and what it is called with."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from galactic_lab.images import pip_settings
from release import audit, image, lending, licences
from release.distributions import DEVELOPMENT, LAB, ROOT, asked, closure, constraints, normal, project
from release.image import Facts, command, engine, facts, source

FACTS = Facts(version="1.2.3", revision="abc", source="https://example.net/g", epoch=1_700_000_000)


def arguments(words, option="--build-arg"):
    return dict(word.split("=", 1) for flag, word in itertools.pairwise(words) if flag == option)


@pytest.mark.parametrize(
    ("works", "chosen"),
    [
        pytest.param({"docker", "podman", "buildah"}, "docker", id="docker-first"),
        pytest.param({"podman", "buildah"}, "podman", id="docker-without-its-service"),
        pytest.param({"buildah"}, "buildah", id="buildah-alone"),
    ],
)
def test_the_first_engine_that_works_is_taken(works, chosen):
    assert engine("", lambda name: None if name in works else "does not work: no service") == chosen


def test_without_a_builder_of_images_it_lists_the_attempts_and_the_remedy():
    with pytest.raises(SystemExit) as ended:
        engine("", lambda name: f"does not work: {name} is tired")
    for expected in (
        "docker does not work: docker is tired",
        "podman",
        "buildah is tired",
        "apt-get install buildah",
    ):
        assert expected in str(ended.value)


def test_an_engine_that_was_asked_for_is_not_replaced():
    with pytest.raises(SystemExit, match="podman is not installed"):
        engine("podman", lambda name: "is not installed" if name == "podman" else None)


@pytest.mark.parametrize("name", ["podman", "buildah"])
def test_the_labels_and_times_are_those_of_the_commit(name):
    words = command(
        name, "galactic:1.2.3", FACTS, base="debian:x", newer="debian:y", target="dev", more=["--layers"]
    )
    assert words[:2] == [name, "build"]
    assert words[-1] == "."
    assert {"--timestamp=1700000000", "--layers"} <= set(words)
    assert words[words.index("--target") + 1] == "dev"
    assert arguments(words) == {"BASE": "debian:x", "NEWER": "debian:y"}
    assert arguments(words, "--label") == {
        "org.opencontainers.image.version": "1.2.3",
        "org.opencontainers.image.revision": "abc",
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
        "org.opencontainers.image.source": "https://example.net/g",
    }


def test_docker_gets_the_time_as_an_argument():
    words = command("docker", "galactic", FACTS)
    assert arguments(words)["SOURCE_DATE_EPOCH"] == "1700000000"
    assert not any(word.startswith("--timestamp") for word in words)
    assert "BASE" not in arguments(words)


def test_every_argument_is_one_of_the_dockerfile():
    text = (ROOT / image.DOCKERFILE).read_text()
    for name in arguments(command("buildah", "galactic", FACTS, base="x", newer="y")):
        assert f"ARG {name}" in text


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://example.net/team/galactic.git", "https://example.net/team/galactic"),
        ("https://user:secret@example.net/team/galactic", "https://example.net/team/galactic"),
        ("git@example.net:team/galactic.git", "https://example.net/team/galactic"),
        ("ssh://git@example.net:2222/team/galactic.git", "https://example.net/team/galactic"),
        ("/srv/galactic", ""),
        ("", ""),
    ],
)
def test_the_source_is_a_web_address_without_credentials(remote, expected):
    assert source(remote) == expected


def test_the_time_can_be_given_and_is_checked():
    assert facts({"SOURCE_DATE_EPOCH": "7"}).epoch == 7
    with pytest.raises(SystemExit, match="seconds since 1970"):
        facts({"SOURCE_DATE_EPOCH": "yesterday"})


def test_everything_that_is_required_is_pinned_and_installed_as_pinned():
    """Directly or not, for whatever extra; what only `make docs` and `make audit` install is at least pinned."""
    pinned = constraints()
    for extra in (*project()["optional-dependencies"], LAB):
        for requirement in asked([extra]):
            version = pinned.get(normal(requirement.name))
            assert version is not None, f"{requirement} ({extra}) is not in constraints.txt"
            assert requirement.specifier.contains(version), requirement
    for requirement in project_build():
        assert normal(requirement) in pinned
    for name, one in closure(DEVELOPMENT).items():
        assert pinned.get(name) == one.version, f"{name} {one.version} is installed"


def project_build():
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    return [requirement.partition(">=")[0] for requirement in table["requires"]]


def test_constraints_have_names_and_versions_alone(tmp_path):
    (tmp_path / "constraints.txt").write_text("aiohttp==3.1\n--index-url https://example.net/simple\n")
    with pytest.raises(SystemExit, match="index-url"):
        constraints(tmp_path)


def test_the_image_asks_for_the_extras_that_are_listed_as_its_own():
    text = (ROOT / image.DOCKERFILE).read_text()
    assert "requirements.py runtime cli > runtime.txt" in text
    done = subprocess.run(
        [sys.executable, "controllers/requirements.py", "runtime", "cli"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.split()) == sorted(
        str(requirement).replace(" ", "") for requirement in asked(["cli"])
    )


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-2.0-or-later OR Apache-2.0", True),
        ("GPL-2.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("says nothing", False),
        ("Proprietary", False),
    ],
)
def test_an_unreviewed_licence_is_refused(expression, may):
    assert licences.allowed(expression) is may


def test_the_page_of_licences_is_true():
    done = subprocess.run(
        [sys.executable, "-m", "release.licences", "--check"],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


VULNERABLE = [{"id": "PYSEC-1", "fix_versions": ["2.0"]}]


@pytest.mark.parametrize(
    ("out", "error", "code", "expected"),
    [
        pytest.param([{"name": "a", "version": "1", "vulns": []}], "", 0, "no known", id="fine"),
        pytest.param(
            [{"name": "a", "version": "1", "vulns": VULNERABLE}],
            "",
            1,
            "a 1: PYSEC-1, fixed in 2.0",
            id="bad",
        ),
        pytest.param([{"name": "a", "skip_reason": "?"}], "", 0, "NOT DONE", id="service-knows-nothing"),
        pytest.param(
            [{"name": "a", "skip_reason": "?"}, {"name": "b", "version": "1", "vulns": VULNERABLE}],
            "",
            1,
            "b 1",
            id="part",
        ),
        pytest.param(
            None, "x\nERROR: no route to host\n", 0, "NOT DONE, nothing was checked: ERROR: no", id="away"
        ),
    ],
)
def test_an_audit_that_could_not_be_made_is_reported_and_passes(capsys, out, error, code, expected):
    printed = "" if out is None else json.dumps({"dependencies": out, "fixes": []})
    assert audit.verdict(printed, error) == code
    assert expected in capsys.readouterr().err


LISTED = """\
:env:.index-url='https://user:word@packages.example/simple'
:env:.disable-pip-version-check='1'
global.cert='/etc/ssl/of-a-file.pem'
global.index-url='https://of-a-file.example/simple'
global.find-links='/srv/wheels\\nhttps://packages.example/wheels file:///srv/more'
install.timeout='7'
global.timeout='9'
"""


def test_pips_settings_are_those_that_pip_goes_by():
    parsed = pip_settings.listed(LISTED)
    assert parsed["index-url"] == "https://user:word@packages.example/simple", (
        "the environment goes before files"
    )
    assert parsed["timeout"] == "7", "the command goes before what is for all"
    text, left_out = lending.configuration(parsed)
    assert text.splitlines() == [
        "[global]",
        "index-url = https://user:word@packages.example/simple",
        "find-links = https://packages.example/wheels",
        "timeout = 7",
    ]
    assert left_out == ["/srv/wheels", "file:///srv/more"]


def test_the_listing_is_pips_own(tmp_path, monkeypatch):
    path = tmp_path / "pip.conf"
    path.write_text("[global]\ntimeout = 41\nretries = 3\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    monkeypatch.setenv("PIP_TIMEOUT", "42")
    parsed = pip_settings.read()
    assert (parsed["timeout"], parsed["retries"]) == ("42", "3")


def secrets(words):
    secrets = [word.removeprefix("--secret=") for word in words if word.startswith("--secret=")]
    return {
        parts["id"]: parts["src"]
        for secret in secrets
        for parts in [dict(p.split("=", 1) for p in secret.split(","))]
    }


def test_what_is_lent_is_a_secret_and_no_argument(tmp_path, capsys):
    authorities = tmp_path / "ca.pem"
    authorities.write_text("-")
    words = lending.options(tmp_path, pip_settings.listed(LISTED), {"SSL_CERT_FILE": str(authorities)})
    lent = secrets(words)
    assert lent["ca"] == str(authorities), "the file of pip's cert is not there"
    assert "user:word@" in (tmp_path / "pip.conf").read_text()
    assert (tmp_path / "pip.conf").stat().st_mode & 0o077 == 0
    called = command("buildah", "galactic", FACTS, more=words)
    assert "user:word@" not in " ".join(called)
    assert lent == secrets(called)
    assert "/srv/wheels" in capsys.readouterr().err
    text = (ROOT / image.DOCKERFILE).read_text()
    for name in lent:
        assert f"--mount=type=secret,id={name}" in text
        assert f"/run/secrets/{name}" in text


def test_nothing_is_lent_that_is_not_there(tmp_path):
    assert secrets(lending.options(tmp_path, {}, {"SSL_CERT_FILE": "/nonexistent"})).keys() == {"pip"}


@pytest.mark.parametrize("given", [[], ["--pip=machine"]])
def test_only_who_asks_for_it_lends(given, monkeypatch, tmp_path):
    """By a stand-in for buildah, which writes down what it is called with."""
    program = tmp_path / "buildah"
    program.write_text(f'#!/bin/sh\n[ "$1" = info ] || echo "$@" > {tmp_path}/called\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "argv", ["image", "--engine=buildah", *given])
    assert image.main() == 0
    lent = secrets((tmp_path / "called").read_text().split())
    assert ("pip" in lent) == bool(given)
    assert not any(path.endswith("pip.conf") and Path(path).exists() for path in lent.values()), (
        "gone with the build"
    )
