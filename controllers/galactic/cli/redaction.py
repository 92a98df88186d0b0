"""Removes secrets from a sysdump: values by their names, text by its form."""

import re
from collections.abc import Mapping
from typing import Any, Final

REDACTED: Final = "REDACTED"
_SECRET_NAME: Final = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|api[-_]?key|private[-_]?key|credentials?|authorization|cookie)$",
    re.IGNORECASE,
)
_HARMLESS: Final = re.compile(r"(file|ref|name|path|mount|automountserviceaccounttoken)$", re.IGNORECASE)
_WORD: Final = r"[A-Za-z0-9_.-]*(?:password|passwd|passphrase|secret|token|api[-_]?key|private[-_]?key)"
_VALUE: Final = r"""(?:\\?"[^"]*"|'[^']*'|[^\s,;&"'}\]\\]+)"""
_TEXTS: Final = (
    # PEM keys, whole or cut off at the end of the text
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        REDACTED,
    ),
    # scheme://user:password@host, and scheme://:password@host
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # Authorization headers and bearer tokens
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # JSON web tokens
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"), REDACTED),
    # name=value, name: value, "name": "value"; an escaped quote is one of JSON within JSON
    (re.compile(rf"""({_WORD}\\?["']?\s*[=:]\s*){_VALUE}""", re.IGNORECASE), rf"\1{REDACTED}"),
    # --name value
    (re.compile(rf"""(--{_WORD}\s+){_VALUE}""", re.IGNORECASE), rf"\1{REDACTED}"),
)


def redacted_text(given: str) -> str:
    """A text without the parts that have the form of a secret."""
    for pattern, instead in _TEXTS:
        given = pattern.sub(instead, given)
    return given


def redacted_object(given: Any) -> Any:
    """An object of the API server without secrets.

    Secrets and ConfigMaps keep only the names of their keys. Variables and fields with the name of a secret lose their
    value. All other texts pass ``redacted_text``. ``last-applied-configuration`` is removed: it repeats all that users
    have written.
    """
    if isinstance(given, Mapping):
        if given.get("kind") in ("Secret", "ConfigMap"):
            given = {
                key: dict.fromkeys(value, REDACTED)
                if key in ("data", "stringData", "binaryData") and value
                else value
                for key, value in given.items()
            }
        if _named(given):
            return {
                key: REDACTED if key == "value" else redacted_object(value) for key, value in given.items()
            }
        return {key: _field(str(key), value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return _flags([redacted_object(item) for item in given])
    return redacted_text(given) if isinstance(given, str) else given


def _field(name: str, value: Any) -> Any:
    if name == "kubectl.kubernetes.io/last-applied-configuration":
        return REDACTED
    if is_secret(name) and isinstance(value, str | int | float) and not isinstance(value, bool):
        return REDACTED
    return redacted_object(value)


def _named(given: Mapping[str, Any]) -> bool:
    """Whether it is a variable ``{name, value}`` with the name of a secret."""
    return isinstance(given.get("name"), str) and "value" in given and is_secret(given["name"])


def _flags(words: list[Any]) -> list[Any]:
    """A command line without the word that follows ``--mqtt-password``."""
    result = list(words)
    for number, word in enumerate(words[:-1]):
        if isinstance(word, str) and word.startswith("--") and "=" not in word and is_secret(word):
            result[number + 1] = REDACTED
    return result


def is_secret(name: str) -> bool:
    """Whether a name is that of a secret; a file's name or a reference is not."""
    words = name.strip("-").lower()
    return bool(_SECRET_NAME.search(words) or words.endswith("database_url")) and not _HARMLESS.search(words)
