"""The check of prose: what it finds, what it leaves alone, and that numbers only fall."""

import json
import shutil
from pathlib import Path
from textwrap import dedent

import pytest

from prose import __main__ as command
from prose import ratchet
from prose.marks import Mark, markdown, python


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        pytest.param('"""The router says so."""', [(1, "says")], id="docstring"),
        pytest.param(
            '"""One.\n\nNobody is told.\n"""', [(3, "nobody"), (3, "told")], id="line-of-a-docstring"
        ),
        pytest.param('X = 1\n"""Whoever asks."""', [(2, "whoever")], id="docstring-of-a-constant"),
        pytest.param('"""What the node has."""', [(1, "what …")], id="what-in-front"),
        pytest.param('"""Whatever the node has."""', [], id="whatever"),
        pytest.param('"""The key ``told``, `said`."""', [], id="quoted"),
        pytest.param("x = 1  # made anew", [(1, "anew")], id="comment"),
        pytest.param('log.info("router heard", by=1)', [(1, "heard")], id="log-event"),
        pytest.param('log.warning(f"{x} told {y}")', [(1, "told")], id="formatted-log-event"),
        pytest.param('raise Rejected("somebody")', [], id="other-text"),
        pytest.param("def tell(): ...", [(1, "`tell`")], id="function"),
        pytest.param("def f(as_said): ...", [(1, "`as_said`")], id="argument"),
        pytest.param("self.told = 1", [(1, "`told`")], id="attribute"),
        pytest.param("x = self.told", [], id="use-of-a-name"),
        pytest.param("essay = teller = 1", [], id="part-of-a-word"),
        pytest.param("for each in x: ...", [(1, "for each")], id="loop"),
        pytest.param("y = [a for a, it in x]", [(1, "for it")], id="comprehension"),
        pytest.param("for path in x: ...", [], id="noun"),
    ],
)
def test_of_a_module(text: str, marks: list[tuple[int, str]]) -> None:
    assert sorted(python(text + "\n")) == [Mark(*mark) for mark in marks]


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        pytest.param("One.\n\nNobody.\n", [(3, "nobody")], id="prose"),
        pytest.param("```\ntold\n```\nsaid `told`\n", [(4, "said")], id="code"),
        pytest.param("- x\n\n  ```console\n  told\n  ```\n\nsaid\n", [(7, "said")], id="code-in-a-list"),
        pytest.param("<!-- told -->\n", [], id="comment"),
        pytest.param("<!-- Generated from x -->\nsaid\n", [], id="generated"),
    ],
)
def test_of_a_page(text: str, marks: list[tuple[int, str]]) -> None:
    assert sorted(markdown(text)) == [Mark(*mark) for mark in marks]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with two packages; its committed numbers are those of its text."""
    for name, text in (
        ("controllers/galactic/node/cni/server.py", '"""Somebody."""\n'),
        ("controllers/galactic/router/rib/table.py", '"""Table."""\n'),
        ("docs/lab.md", "Nobody.\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(command, "COUNTS", tmp_path / "counts.json")
    monkeypatch.setattr(command, "read", lambda: ratchet.read(tmp_path / "counts.json"))
    monkeypatch.setattr(command, "places", lambda: ratchet.places(tmp_path))
    numbers = {"controllers/galactic/node": {"somebody": 1}, "docs": {"nobody": 1}}
    (tmp_path / "counts.json").write_text(json.dumps(numbers))
    return tmp_path


def test_present_text_passes_and_new_text_is_named(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0
    (repository / "controllers/galactic/router/rib/table.py").write_text('"""Table.\n\nTold.\n"""\n')
    assert command.main([]) == 1
    assert capsys.readouterr().err == dedent("""\
        controllers/galactic/router/rib/table.py:3: told (controllers/galactic/router may have 0 of told)
        prose: write the lines that are new without these words: CONTRIBUTING.md, "Prose and names"
        """)


def test_numbers_fall_and_never_rise(repository: Path) -> None:
    page = repository / "docs/lab.md"
    page.write_text("Nobody, nobody.\n")
    assert command.main(["--write"]) == 1
    page.write_text("No user.\n")
    assert command.main([]) == command.main(["--write"]) == 0
    assert json.loads((repository / "counts.json").read_text()) == {
        "controllers/galactic/node": {"somebody": 1}
    }
    page.write_text("Nobody.\n")
    assert command.main([]) == 1, "what has fallen stays there"


def test_numbers_move_with_text(repository: Path) -> None:
    source = repository / "controllers/galactic/node/cni/server.py"
    shutil.move(source, repository / "controllers/galactic/router/rib/server.py")
    assert command.main([]) == 1
    assert command.main(["--write"]) == 0
    assert command.main([]) == 0


def test_the_rules_are_where_the_message_leads() -> None:
    assert "\n## Prose and names\n" in (ratchet.ROOT / "CONTRIBUTING.md").read_text()
