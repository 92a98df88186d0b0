"""Which version a guest kernel is built from is the same everywhere, or is asked of apt once a day and recorded."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

from galactic_lab.builds import build_linux, cache, guest_kernels, packages
from galactic_lab.builds.build import BuildFailed, Job
from galactic_lab.builds.build_linux import Source, build
from galactic_lab.builds.guest_kernels import KERNELS, Wanted, known, remark, resolve, select, settled

PACKAGE = "linux-source-6.1"
EXACT = Wanted(PACKAGE, "6.1.176-1")
NEWEST = Wanted(PACKAGE)
BOOKWORM = {PACKAGE: ["6.1.192-3", "6.1.176-1", "6.1.170-3"]}
LATER = {PACKAGE: ["6.1.201-1", "6.1.195-1"]}
TRIXIE = {"linux-source-6.12": ["6.12.90-1", "6.12.73-1"]}


@pytest.mark.parametrize(
    ("wanted", "served", "source"),
    [
        pytest.param(EXACT, BOOKWORM, Source(PACKAGE, "6.1.176-1"), id="pinned"),
        pytest.param(EXACT, LATER, Source(PACKAGE, "6.1.195-1"), id="gone-the-oldest"),
        pytest.param(
            EXACT, TRIXIE, Source("linux-source-6.12", "6.12.73-1"), id="another-release-the-oldest"
        ),
        pytest.param(
            EXACT, {"linux-source-6.12": ["6.1.176-1"]}, Source("linux-source-6.12", "6.1.176-1"), id="same"
        ),
        pytest.param(NEWEST, BOOKWORM, Source(PACKAGE, "6.1.192-3"), id="newest"),
        pytest.param(
            NEWEST, TRIXIE, Source("linux-source-6.12", "6.12.90-1"), id="another-release-the-newest"
        ),
        pytest.param(EXACT, {}, None, id="apt-has-nothing"),
    ],
)
def test_what_is_taken_of_what_apt_offers(
    wanted: Wanted, served: dict[str, list[str]], source: Source | None
) -> None:
    assert select(wanted, lambda package: served.get(package, []), "linux-source-6.12") == source


def test_a_package_is_its_own_fallback_where_no_release_is_known() -> None:
    assert select(EXACT, lambda package: LATER.get(package, []), None) == Source(PACKAGE, "6.1.195-1")


class Apt:
    """Apt's offers, installed versions, and the number of times that the lists were fetched."""

    def __init__(self) -> None:
        self.offers: dict[str, list[str]] = BOOKWORM
        self.installed: dict[str, str] = {}
        self.updates = 0

    def update(self) -> None:
        self.updates += 1

    def served(self, package: str) -> list[str]:
        return self.offers.get(package, [])

    def version(self, package: str) -> str | None:
        return self.installed.get(package)


def passed(seconds: float) -> None:
    """Every choice was made so much earlier."""
    path = cache.root() / "linux.json"
    record = json.loads(path.read_text())
    for choice in record.values():
        choice["time"] -= seconds
    path.write_text(json.dumps(record))


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apt]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = Apt()
    monkeypatch.setattr(packages, "update", fake.update)
    monkeypatch.setattr(packages, "served", fake.served)
    monkeypatch.setattr(packages, "version", fake.version)
    monkeypatch.setattr(packages, "depends", lambda _package: ["binutils", *list(fake.offers)[:1]])
    monkeypatch.setitem(KERNELS, "pinned", EXACT)
    monkeypatch.setitem(KERNELS, "newest", NEWEST)
    yield fake
    assert not list(cache.root().glob("linux.[0-9]*")), "a record was left half written"


def built(source: Source) -> Source:
    home = build(source).home
    home.mkdir(parents=True)
    (home / "linux").touch()
    return source


def test_the_pinned_kernel_is_not_asked_for_once_it_is_built(apt: Apt) -> None:
    assert settled("pinned") is None
    assert known("pinned") == resolve("pinned") == Source(PACKAGE, "6.1.176-1")
    assert apt.updates == 1
    built(Source(PACKAGE, "6.1.176-1"))
    apt.offers = {}
    passed(1e8)
    assert resolve("pinned") == settled("pinned") == Source(PACKAGE, "6.1.176-1")
    assert apt.updates == 1


def test_an_installed_source_counts_only_in_the_pinned_version(apt: Apt) -> None:
    apt.offers = {}
    apt.installed = {PACKAGE: "6.1.192-3"}
    with pytest.raises(BuildFailed, match=r"apt offers neither linux-source-6\.1 nor linux-source"):
        resolve("pinned")
    apt.installed = {PACKAGE: "6.1.176-1"}
    assert resolve("pinned") == Source(PACKAGE, "6.1.176-1")


def test_the_newest_is_the_same_for_a_day(apt: Apt) -> None:
    today = built(resolve("newest"))
    apt.offers = LATER
    passed(guest_kernels.DAY_SECONDS - 600)
    assert resolve("newest") == settled("newest") == known("newest") == today
    passed(601)
    assert settled("newest") is None
    assert known("newest") == today, "until apt is asked again"
    assert resolve("newest") == known("newest") == Source(PACKAGE, "6.1.201-1")
    assert build(today).built(), "the old one stays"


def test_what_is_not_built_is_asked_for_again(apt: Apt) -> None:
    """A choice whose build failed, perhaps because apt's lists were old, is no choice."""
    resolve("newest")
    apt.offers = LATER
    assert resolve("newest") == Source(PACKAGE, "6.1.201-1")


def test_the_last_choice_is_good_where_apt_has_nothing(apt: Apt) -> None:
    today = built(resolve("newest"))
    apt.offers = {}
    passed(1e8)
    assert resolve("newest") == today


def test_what_is_taken_instead_is_named_and_gives_way_to_the_pinned_one(apt: Apt) -> None:
    apt.offers = LATER
    instead = built(resolve("pinned"))
    assert settled("pinned") == known("pinned") == instead == Source(PACKAGE, "6.1.195-1")
    assert remark("pinned", instead) == (
        "apt does not offer linux-source-6.1=6.1.176-1: linux-source-6.1=6.1.195-1 is taken, the oldest of its package"
    )
    apt.installed = {PACKAGE: "6.1.176-1"}
    assert settled("pinned") == known("pinned") == Source(PACKAGE, "6.1.176-1")
    apt.installed = {}
    apt.offers = BOOKWORM
    passed(guest_kernels.DAY_SECONDS + 1)
    assert resolve("pinned") == Source(PACKAGE, "6.1.176-1")
    assert remark("pinned", Source(PACKAGE, "6.1.176-1")) == ""
    assert remark("newest", Source(PACKAGE, "6.1.192-3")) == ""
    assert "the newest of its package" in remark("newest", Source("linux-source-6.12", "6.12.90-1"))


def test_a_choice_for_another_pin_is_none(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    apt.offers = LATER
    built(resolve("pinned"))
    monkeypatch.setitem(KERNELS, "pinned", Wanted(PACKAGE, "6.1.180-1"))
    assert known("pinned") == Source(PACKAGE, "6.1.180-1")


def test_another_suite_that_cannot_be_reached_gives_way_to_the_pinned_kernel(
    apt: Apt, monkeypatch: pytest.MonkeyPatch
) -> None:
    backport = Source("linux-source-7.3", "7.3.4-1", "trixie-backports")
    monkeypatch.setattr(guest_kernels, "_backport", lambda _suite: backport)
    assert resolve("backports") == backport
    assert Source.parse(str(backport)) == backport
    assert remark("backports", backport) == ""
    passed(guest_kernels.DAY_SECONDS + 1)
    monkeypatch.setattr(guest_kernels, "_backport", lambda _suite: None)
    assert resolve("backports") == Source(PACKAGE, "6.1.176-1")
    assert "does not reach trixie-backports" in remark("backports", Source(PACKAGE, "6.1.176-1"))


def test_a_record_that_cannot_be_read_is_none(apt: Apt) -> None:
    cache.root().mkdir()
    for text in ("", "{", '{"newest": {"colour": "blue"}}'):
        (cache.root() / "linux.json").write_text(text)
        assert known("newest") is None
        assert resolve("newest") == known("newest") == Source(PACKAGE, "6.1.192-3")


def test_each_version_is_a_build_of_its_own(apt: Apt) -> None:
    homes = {build(Source(PACKAGE, version)).home for version in BOOKWORM[PACKAGE]}
    assert len(homes) == 3
    assert build(Source(PACKAGE, "1")).home != build(Source("linux-source-6.12", "1")).home
    assert build(Source.parse("linux-source-6.1=6.1.176-1")).name == "linux-6.1.176-1"


@pytest.mark.parametrize(
    ("installed", "downloads"),
    [
        pytest.param("6.1.176-1", False, id="the-wanted-version-is-installed"),
        pytest.param("6.1.192-3", True, id="another-version-is-installed"),
        pytest.param(None, True, id="a-stray-file"),
    ],
)
def test_what_lies_in_usr_src_is_taken_only_in_the_wanted_version(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None, downloads: bool
) -> None:
    archive = tmp_path / f"{PACKAGE}.tar.xz"
    archive.touch()
    monkeypatch.setattr(build_linux, "TARBALLS", tmp_path)
    monkeypatch.setattr(packages, "refresh", lambda: None)
    apt.installed = {PACKAGE: installed} if installed else {}
    work = tmp_path / "work"
    work.mkdir()
    ran = []

    class Recorded(Job):
        def run(self, argv, **_more) -> None:
            ran.append(list(argv))
            (self.work / f"{PACKAGE}_6.1.176-1_all.deb").touch()

    ignore: Callable[[float, str], None] = lambda _done, _title: None  # noqa: E731
    path = build_linux.tarball(Recorded(work, work, BytesIO(), ignore), Source(PACKAGE, "6.1.176-1"))
    assert (path == archive) is not downloads
    assert any(argv[-2:] == ["download", "linux-source-6.1=6.1.176-1"] for argv in ran) is downloads
