"""Hypothesis tries the same cases whatever other tests ran before in the same process."""

import importlib.util
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def cases():
    tried = []

    @settings(derandomize=True)
    @given(st.integers(), st.text())
    def one(number, text):
        tried.append((number, text))

    one()
    return tried


@pytest.mark.skipif("GALACTIC_RANDOM_HISTORIES" in os.environ, reason="new ones were requested")
def test_the_cases_are_the_same_whatever_was_imported(tmp_path, monkeypatch):
    before = cases()
    path = tmp_path / "module.py"
    path.write_text(f"NUMBERS = {list(range(1000, 1400))}\n")
    spec = importlib.util.spec_from_file_location("module_with_constants", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(importlib.sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert cases() == before
