"""Words that CONTRIBUTING.md rules out, in docstrings, comments, log events, identifiers and Markdown."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WORDS: Final = re.compile(r"\b(tells?|told|says|said|heard|nobody|somebody|whoever|anew)\b", re.IGNORECASE)
NAMES: Final = frozenset({"tell", "told", "say", "said", "hear", "heard"})
"""Not to be a part of an identifier."""
PRONOUNS: Final = frozenset({"each", "it", "found", "there", "held"})
"""Not to be the variable of a loop."""
LEVELS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
FENCED: Final = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
QUOTED: Final = re.compile(r"``[^`\n]*``|`[^`\n]*`|<!--.*?-->")
GENERATED: Final = "<!-- Generated"


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """One of these words on a line; an identifier in backticks, the variable of a loop behind ``for``."""

    line: int
    word: str


def python(text: str) -> Iterator[Mark]:
    """Those of a module."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _prose(token.string, token.start[0])
    for node in ast.walk(ast.parse(text)):
        yield from _text(node)
        yield from _names(node)


def _text(node: ast.AST) -> Iterator[Mark]:
    """Those of a docstring or a log event."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(prose), lineno=line)):
            yield from _prose(QUOTED.sub("", prose), line)
            if prose.startswith("What "):
                yield Mark(line, "what …")
        case ast.Call(func=ast.Attribute(attr=level), args=[event, *_]) if level in LEVELS:
            for part in ast.walk(event):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from _prose(part.value, event.lineno)


def _names(node: ast.AST) -> Iterator[Mark]:
    """Those of what a statement names."""
    match node:
        case ast.For(target=target) | ast.AsyncFor(target=target) | ast.comprehension(target=target):
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and part.id in PRONOUNS:
                    yield Mark(part.lineno, f"for {part.id}")
        case (
            ast.FunctionDef(name=name, lineno=line)
            | ast.AsyncFunctionDef(name=name, lineno=line)
            | ast.ClassDef(name=name, lineno=line)
            | ast.arg(arg=name, lineno=line)
            | ast.Name(id=name, lineno=line, ctx=ast.Store())
            | ast.Attribute(attr=name, lineno=line, ctx=ast.Store())
        ):
            if NAMES & {*name.lower().split("_")}:
                yield Mark(line, f"`{name}`")


def markdown(text: str) -> Iterator[Mark]:
    """Those of a page outside of code; of a generated page none: its text is the code's."""
    if not text.startswith(GENERATED):
        blank = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
        yield from _prose(QUOTED.sub("", blank), 1)


def of_file(path: Path) -> list[Mark]:
    """Those of a file, in order."""
    return sorted((python if path.suffix == ".py" else markdown)(path.read_text()))


def _prose(text: str, first: int) -> Iterator[Mark]:
    for number, line in enumerate(text.split("\n"), start=first):
        for word in WORDS.findall(line):
            yield Mark(number, word.lower())
