import pytest

from galactic.crds.vpc import AllowedNamespaces
from galactic.errors import Rejected
from galactic.validation.grants import granted, selects

LABELS = {"team": "blue", "stage": "test"}


@pytest.mark.parametrize(
    ("allowed", "own", "labels", "expected"),
    [
        pytest.param(None, True, None, True, id="own"),
        pytest.param(None, False, LABELS, False, id="left-out"),
        pytest.param({"from": "Same"}, False, LABELS, False, id="same"),
        pytest.param({"from": "All"}, False, None, True, id="all"),
        pytest.param({"from": "Selector"}, False, LABELS, False, id="no-selector-selects-nothing"),
        pytest.param(
            {"from": "Selector", "selector": {}}, False, LABELS, True, id="empty-selector-selects-all"
        ),
        pytest.param({"from": "Selector", "selector": {}}, False, None, False, id="unknown-namespace"),
        pytest.param(
            {"from": "Selector", "selector": {"matchLabels": {"team": "green"}}},
            False,
            LABELS,
            False,
            id="other-team",
        ),
    ],
)
def test_granted(allowed, own, labels, expected):
    model = AllowedNamespaces.model_validate(allowed) if allowed else None
    assert granted(model, own, labels) is expected


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["blue", "red"], True),
        ("In", ["red"], False),
        ("NotIn", ["red"], True),
        ("NotIn", ["blue"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
    ],
)
def test_expressions(operator, values, expected):
    expression = {"key": "team", "operator": operator} | ({"values": values} if values else {})
    assert selects({"matchExpressions": [expression]}, LABELS) is expected


@pytest.mark.parametrize(
    "selector", [{"labels": {}}, {"matchExpressions": [{"key": "team", "operator": "Is"}]}], ids=str
)
def test_malformed(selector):
    with pytest.raises(Rejected, match="write "):
        selects(selector, LABELS)
