"""TLS contexts as Python makes them from 3.13 on, whatever version runs the tests."""

import ssl

import pytest


def make_contexts_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """They verify that certificates have what RFC 5280 asks for."""
    make = ssl.create_default_context

    def strict(*arguments: object, **more: object) -> ssl.SSLContext:
        context = make(*arguments, **more)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
