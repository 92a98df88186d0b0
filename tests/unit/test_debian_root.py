"""Another release of Debian: its sources, and what its commands see of this machine's settings."""

import pytest

import debian_root

SOURCES = """\
# a comment
Types: deb
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://a.example/debian-security
Suites: bookworm-security

Types: deb
URIs: http://c.example/node
Suites: nodistro
"""


def test_the_releases_sources_are_the_machines() -> None:
    assert debian_root.mirrors(SOURCES, "bookworm", "trixie") == [
        "deb http://a.example/debian trixie main",
        "deb http://a.example/debian trixie-updates main",
        "deb http://a.example/debian-security trixie-security main",
    ]
    assert debian_root.mirrors(SOURCES, "book", "trixie") == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("GOPROXY", True),
        ("GOCACHE", True),
        ("PIP_INDEX_URL", True),
        ("https_proxy", True),
        ("SSL_CERT_FILE", True),
        ("GALACTIC_LAB_LINUX", True),
        ("PIP_FIND_LINKS", False),  # folders of the machine
        ("PYTHONPATH", False),
        ("VIRTUAL_ENV", False),
        ("GALAXY", False),
    ],
)
def test_settings_of_the_machine_hold_and_its_programs_do_not(name: str, kept: bool) -> None:
    found = debian_root.variables({name: "x", "PATH": "/machine", "HOME": "/home/me"})
    assert (name in found) == kept
    assert "/machine" not in found["PATH"]
    assert found["HOME"] == "/root"
