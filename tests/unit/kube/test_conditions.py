from galactic.crds.model import Condition
from galactic.kube.conditions import State, conditions, status_patch

BEFORE = (
    Condition(
        type="Ready",
        status="True",
        reason="Ready",
        message="m",
        last_transition_time="then",
        observed_generation=1,
    ),
    Condition(type="Others", status="True", reason="R", message="m", last_transition_time="then"),
)


def by_type(written):
    return {one["type"]: one for one in written}


def test_the_time_changes_with_the_status_only():
    same = by_type(conditions(BEFORE, {"Ready": State("True", "Other", "new words")}, 2, "now"))["Ready"]
    assert (same["lastTransitionTime"], same["reason"], same["observedGeneration"]) == ("then", "Other", 2)
    turned = by_type(conditions(BEFORE, {"Ready": State("False", "No", "m")}, 2, "now"))["Ready"]
    assert turned["lastTransitionTime"] == "now"


def test_others_stay_none_removes_and_new_ones_come_last():
    written = conditions(BEFORE, {"Ready": None, "New": State("True", "R", "m")}, 1, "now")
    assert [one["type"] for one in written] == ["Others", "New"]
    assert written[0] == {
        "type": "Others", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "then"
    }  # fmt: skip


def test_a_patch_has_only_what_differs():
    assert status_patch({"ready": True, "identifier": "a"}, {"ready": True}, "7") is None
    assert status_patch({"ready": True}, {"ready": False, "n": 1}, "7") == {
        "status": {"ready": False, "n": 1}
    }
    assert status_patch({}, {"conditions": []}, "7")["metadata"] == {"resourceVersion": "7"}
