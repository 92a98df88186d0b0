"""The documentation builds, its links hold, its manifests are valid, and its commands exist."""

import os
import re
import shlex
import subprocess
import sys
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import DOCS, ROOT, Block, blocks, commands, missing, pages, walk

from galactic import settings
from galactic.cli.main import COMMANDS, load
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.router.ingress.admissions import parse
from galactic.validation.networks import parse_networks
from galactic_lab.commands import DEMO, LAB

KNOWN = COMMANDS | {"lab": LAB, "demo": DEMO}
KINDS = {kind.KIND: kind for kind in (Vpc, VpcAttachment, NodeSegment)}
SETTINGS = {
    "galactic-operator": settings.OperatorSettings,
    "galactic-webhook": settings.WebhookSettings,
    "galactic-node": settings.NodeSettings,
    "galactic-node-prepare": settings.NodeSettings,
    "galactic-router": settings.RouterSettings,
}
_PATIENCE_SECONDS = 900
"""To build all pages."""
ALL = [block for page in pages() for block in blocks(page)]
FRONT = [block for name in ("README.md", "CONTRIBUTING.md") for block in blocks(ROOT / name)]
"""Their commands, such as `make test`, run this test: they are not run by it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strict: a dead link or anchor, and a page in no menu, end the build. Not quiet: mkdocs counts printed
    warnings only.
    """
    folder = tmp_path_factory.mktemp("site")
    command = [ROOT / ".venv/bin/mkdocs", "build", "--strict", "--site-dir", folder]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # Material's own advertisement
    done = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.timeout(2 * _PATIENCE_SECONDS)
def test_nothing_is_fetched_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', page.read_text()
        )
        assert not fetched, page
        assert 'class="mermaid"' not in page.read_text(), f"{page}: mermaid comes from a CDN"


READ = [page for page in pages() if page.parent.name != "runbooks" and page.name != "architecture.md"]


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_begins_with_its_readers(page: Path) -> None:
    lines = [line for line in page.read_text().split("\n") if line and not line.startswith("<!--")]
    assert lines[0].startswith("# ")
    assert lines[1].startswith("For "), lines[1]


def manifests() -> list[Any]:
    return [
        pytest.param(block, id=block.place)
        for block in ALL
        if block.language == "yaml" and "galactic.datumapis.com" in block.text
    ]


@pytest.mark.parametrize("block", manifests())
def test_manifests_are_valid(block: Block) -> None:
    for manifest in yaml.safe_load_all(block.text):
        if kind := KINDS.get(manifest["kind"]):
            kind.model_validate(manifest)
        if manifest["kind"] == Vpc.KIND and block.page.name != "api.md":
            parse_networks(manifest["spec"]["networks"], IPv6Network("2001:db8:ff00::/40"))


def test_the_refused_manifest_is_invalid() -> None:
    """docs/api.md shows a refusal; `vpc.yaml` is the refused file."""
    (block,) = [block for block in ALL if block.title == "vpc.yaml" and block.page.name == "api.md"]
    with pytest.raises(Rejected, match=r"write 10\.1\.1\.0/24"):
        parse_networks(yaml.safe_load(block.text)["spec"]["networks"], None)


def test_admissions_are_valid() -> None:
    (block,) = [block for block in ALL if block.title == "admissions.yaml"]
    parse(block.text)


def test_every_setting_in_a_file_exists() -> None:
    (block,) = [block for block in ALL if block.title == "router.yaml"]
    assert yaml.safe_load(block.text).keys() <= settings.RouterSettings.model_fields.keys()


def test_every_block_of_commands_is_run_or_has_a_reason_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    consoles = [block for block in ALL if block.language == "console"]
    left = [block for block in consoles if not block.run]
    silent = [block.place for block in left if not block.mark]
    assert not silent, f"mark these `<!-- run: here -->` or `<!-- not run: why -->`: {silent}"
    report = [f"{len(consoles) - len(left)} blocks of commands are run, {len(left)} are not:"]
    report += [f"  {block.place}: {block.mark.removeprefix('not run: ')}" for block in left]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(report) + "\n")


def test_a_mark_names_tests_that_exist() -> None:
    named = {(block.place, path) for block in ALL for path in re.findall(r"tests/[\w/.]*\w", block.mark)}
    gone = [f"{place}: {path}" for place, path in sorted(named) if not (ROOT / path).exists()]
    assert named
    assert not gone


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=block.place) for block in (*ALL, *FRONT) if block.language == "console"]
)
def test_commands_exist(block: Block) -> None:
    """Also those that are not run: programs of ours, their subcommands and flags, and targets of make."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(block):
        for part in re.split(r"\|\||&&|[|;]", command.typed):
            words = [word for word in _split(part) if word != "$"]
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            program = Path(words[0]).name if words else ""
            if program == "make":
                assert all(word in targets for word in words[1:] if "=" not in word), command
            elif program == "galactic":
                _check(words[1:], command.place)
            elif program in SETTINGS:
                fields = {f"--{name.replace('_', '-')}" for name in SETTINGS[program].model_fields}
                given = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert given <= fields | {"--config", "--help", "--version"}, command.place


PATHS = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.py)`")
ROOTS = (ROOT, ROOT / "controllers" / "galactic", ROOT / "tests")


@pytest.mark.parametrize(
    "page", [*pages(), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_python_files_exist(page: Path) -> None:
    """By their path from the repository, from controllers/galactic or from tests."""
    named = set(PATHS.findall(page.read_text()))
    assert not sorted(path for path in named if not any((root / path).exists() for root in ROOTS))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a part of something quoted
        return []


def _check(words: list[str], place: str) -> None:
    """The subcommand and its flags, up to ``--``."""
    own = words[: words.index("--")] if "--" in words else words
    if not own or own[0].startswith("-"):
        return
    assert own[0] in KNOWN, f"{place}: galactic {own[0]}"
    part: Any = load(own[0], KNOWN[own[0]])
    for word in own[1:]:
        if word.startswith("-") and word != "-":
            known = {flag for option in part.params for flag in (*option.opts, *option.secondary_opts)}
            assert word.partition("=")[0] in known | {"--help"}, f"{place}: {word}"
        elif hasattr(part, "commands"):
            assert word in part.commands, f"{place}: galactic … {word}"
            part = part.commands[word]


def test_a_wrong_line_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "tutorials" / "page.md"
    page.parent.mkdir()
    page.write_text("```console\n$ echo one two\none …\n```\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("blocks.ROOT", tmp_path)
        walk(page, tmp_path, {"PATH": "/usr/bin:/bin"})
        page.write_text("```console\n$ echo one two\nthree …\n```\n")
        with pytest.raises(AssertionError, match="without the line: three"):
            walk(page, tmp_path, {"PATH": "/usr/bin:/bin"})
        page.write_text("```console\n$ false\n```\n")
        with pytest.raises(AssertionError, match="→ 1"):
            walk(page, tmp_path, {"PATH": "/usr/bin:/bin"})
        page.write_text("<!-- run: fails -->\n```console\n$ true\n```\n")
        with pytest.raises(AssertionError, match="→ 0"):
            walk(page, tmp_path, {"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize(
    ("expected", "printed", "lacks"),
    [
        pytest.param(("a b",), "a    b", None, id="white space"),
        pytest.param(("a …",), "x\na b c\n", None, id="the rest"),
        pytest.param(("b", "a"), "a\nb\n", "a", id="order"),
        pytest.param(("a.b",), "axb", "a.b", id="no pattern"),
    ],
)
def test_shape(expected: tuple[str, ...], printed: str, lacks: str | None) -> None:
    assert missing(expected, printed) == lacks
