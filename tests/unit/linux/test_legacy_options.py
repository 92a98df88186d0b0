"""The options of iptables' extensions are found whatever the size of a row in the library's table."""

import ctypes
from types import SimpleNamespace

import pytest

from galactic.linux import legacy

NAMES = (b"loose", b"validmark", b"invert")


class Row(ctypes.Structure):
    """As python-iptables describes struct xt_option_entry, for the name."""

    _fields_ = [("name", ctypes.c_char_p), ("rest", ctypes.c_uint64 * 5)]


class Parser:
    def _option_lookup(self, rows, name):
        return next((row for row in rows[: len(NAMES)] if row.name == name), None)


@pytest.mark.parametrize("more", [0, 8], ids=["1.8.9", "1.8.11"])
def test_every_option_is_found(more):
    size = ctypes.sizeof(Row) + more
    table = ctypes.create_string_buffer(size * (len(NAMES) + 1))
    for number, name in enumerate(NAMES):
        Row.from_buffer(table, number * size).name = name
    rows = ctypes.cast(table, ctypes.POINTER(Row))
    parser = type("Parser", (Parser,), {})
    iptc = SimpleNamespace(xtables=SimpleNamespace(xt_option_entry=Row, xtables=parser))
    legacy._mend_options(iptc, rows)
    found = [parser()._option_lookup(rows, name).name for name in NAMES]
    assert found == list(NAMES)
    assert ("_option_lookup" in vars(parser)) == bool(more)
    if more:
        assert parser()._option_lookup(rows, b"none") is None
