"""The Multus annotation: both its forms, appended to and never overwritten."""

import json

import pytest

from galactic.errors import Rejected
from galactic.validation.multus import Network, appended, interfaces, networks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "web@galactic0", id="empty"),
        pytest.param("  ", "web@galactic0", id="blank"),
        pytest.param("other", "other,web@galactic0", id="comma-list"),
        pytest.param("a, b@net7", "a, b@net7,web@galactic0", id="two"),
        pytest.param("web@galactic0", "web@galactic0", id="there-already"),
        pytest.param("a,blue/web@galactic0", "a,blue/web@galactic0", id="there-with-its-namespace"),
        pytest.param("green/web", "green/web,web@galactic0", id="a-namesake-elsewhere"),
        pytest.param("web@other", "web@other", id="there-under-another-name"),
    ],
)
def test_comma_form(text: str, expected: str) -> None:
    assert appended(text, "web", "galactic0", "blue") == expected
    assert appended(expected, "web", "galactic0", "blue") == expected


@pytest.mark.parametrize(
    ("there", "added"),
    [
        pytest.param([], True, id="empty-list"),
        pytest.param(
            [{"name": "a", "interface": "net7", "ips": ["10.0.0.1/24"], "mac": "c2:b0:57:49:47:f1"}],
            True,
            id="one",
        ),
        pytest.param([{"name": "web", "interface": "galactic0"}], False, id="there-already"),
        pytest.param([{"name": "web", "namespace": "green"}], True, id="a-namesake-elsewhere"),
    ],
)
def test_json_form(there: list[dict[str, object]], added: bool) -> None:
    text = json.dumps(there)
    once = appended(text, "web", "galactic0", "blue")
    assert appended(once, "web", "galactic0", "blue") == once
    if not there:
        assert once == "web@galactic0"
    else:
        assert json.loads(once) == [*there, *([{"name": "web", "interface": "galactic0"}] if added else [])]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a,,b", id="empty-entry"),
        pytest.param("a@", id="no-interface"),
        pytest.param("a@b@c", id="two-interfaces"),
        pytest.param("x/y/z", id="two-slashes"),
        pytest.param("/a", id="no-namespace"),
        pytest.param("Upper", id="not-a-name"),
        pytest.param("a@averyveryverylongname", id="interface-too-long"),
        pytest.param("[", id="half-a-list"),
        pytest.param('{"name":"a"}', id="an-object"),
        pytest.param('["a"]', id="list-of-texts"),
        pytest.param('[{"interface":"a"}]', id="entry-without-name"),
        pytest.param('[{"name":7}]', id="name-is-a-number"),
        pytest.param('"a"', id="a-string"),
    ],
)
def test_malformed_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(Rejected, match=r"k8s.v1.cni.cncf.io/networks\].*write NAME@INTERFACE"):
        networks(text)


def test_interfaces_have_multus_names_where_none_is_given() -> None:
    there = networks("a,b@x,c")
    assert there == (Network("", "a", ""), Network("", "b", "x"), Network("", "c", ""))
    assert interfaces(there) == ("net1", "x", "net3")
