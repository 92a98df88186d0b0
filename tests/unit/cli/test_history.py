"""`galactic history` prints whole lines, also on a narrow terminal."""

from datetime import UTC, datetime

import pytest

from galactic.cli.history import _print
from galactic.router.database.history import Holding

THEN = datetime(2026, 11, 19, 18, 2, 45, tzinfo=UTC)


def test_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sid = "2001:db8:ff01:100:e31a:e667:4668:90"
    holding = Holding(
        *(0x4D2, "2001:db8:1234:5678::1/128", "default", 42, "node-1", "blue/a-name-that-is-long", sid),
        *(1, 2, THEN, None, True, None, True, None),
    )
    _print([holding], wide=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["VPC", "NETWORK", "ATTACHMENT"]
    for word in (
        "0000000004d2",
        holding.network,
        holding.attachment,
        holding.node,
        "now",
        holding.cluster,
        sid,
    ):
        assert word in row
