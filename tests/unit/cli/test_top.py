"""Rates by name, sums by VPC, the order; and months."""

from datetime import date

import pytest
from states import snapshot
from test_way_out import cluster

from galactic.cli.top import SortBy, attachments, by_vpc, gateways, ordered, size
from galactic.cli.usage import days
from galactic.errors import Rejected
from galactic.names import host_end, main_end

KNOWN = {
    ("0000000004d2", "0001"): ("a/one", "a/blue"),
    ("0000000004d2", "0002"): ("b/two", "a/blue"),
    ("0000000004d3", "0001"): ("c/three", "c/red"),
}


def counted(**rises: int) -> dict[str, dict[str, int]]:
    names = (
        "sent_bytes",
        "sent_packets",
        "received_bytes",
        "received_packets",
        "no_route",
        "too_big",
        "device",
    )
    return {"rises": dict.fromkeys(names, 0) | rises}


MEASURED = {
    "node-1": {
        "seconds": 2.0,
        "devices": {
            host_end(1234, 1): counted(sent_bytes=200, sent_packets=2, no_route=4),
            host_end(1235, 1): counted(received_bytes=1000),
            host_end(77, 1): counted(sent_bytes=9),
        },
    },
    "node-2": {"seconds": 4.0, "devices": {host_end(1234, 2): counted(received_bytes=4000, too_big=4)}},
}


def test_rates_have_names_and_no_identifiers() -> None:
    rows = {row.name: row for row in attachments(KNOWN, MEASURED)}
    assert rows.keys() == {"a/one", "b/two", "c/three"}
    assert (rows["a/one"].sent_bytes, rows["a/one"].sent_packets, rows["a/one"].node) == (100, 1, "node-1")
    assert rows["a/one"].dropped == {"no route": 2}
    assert rows["b/two"].received_bytes == 1000


def test_a_gateway_has_what_leaves_by_each_of_its_nodes() -> None:
    known = gateways(snapshot(cluster()))
    assert known == {("0000000004d2", "0009"): ("blue/way", "blue/blue")}
    devices = {
        main_end(1234, 9): counted(sent_bytes=200, received_bytes=400),
        host_end(1234, 9): counted(sent_bytes=7),
    }
    (row,) = attachments(known, {"node-2": {"seconds": 2.0, "devices": devices}}, "M")
    assert (row.name, row.vpc, row.node) == ("blue/way", "blue/blue", "node-2")
    assert (row.sent_bytes, row.received_bytes) == (100, 200)


def test_a_vpc_is_the_sum_of_its_attachments() -> None:
    rows = {row.name: row for row in by_vpc(attachments(KNOWN, MEASURED))}
    assert rows["a/blue"].node == "node-1,node-2"
    assert (rows["a/blue"].sent_bytes, rows["a/blue"].received_bytes) == (100, 1000)
    assert rows["a/blue"].dropped == {"MTU": 1, "no route": 2}


@pytest.mark.parametrize(
    ("sort_by", "names"),
    [
        (SortBy.BYTES, ["b/two", "c/three", "a/one"]),
        (SortBy.SENT, ["a/one", "b/two", "c/three"]),
        (SortBy.DROPS, ["a/one", "b/two", "c/three"]),
        (SortBy.NAME, ["a/one", "b/two", "c/three"]),
    ],
)
def test_the_order(sort_by: SortBy, names: list[str]) -> None:
    assert [row.name for row in ordered(attachments(KNOWN, MEASURED), sort_by)] == names


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes(amount: float, text: str) -> None:
    assert size(amount) == text


def test_months() -> None:
    assert days("2026-11") == (date(2026, 11, 1), date(2026, 12, 1))
    assert days("2026-12") == (date(2026, 12, 1), date(2027, 1, 1))
    for wrong in ("2026", "2026-13", "november", "2026-00"):
        with pytest.raises(Rejected, match="write 2026-11"):
            days(wrong)
