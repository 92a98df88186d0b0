"""A node's reason for a refusal is recognised between the words of other programs."""

import pytest

from galactic import refusals
from galactic.refusals import Refusal, refusal

AROUND = (
    "(combined from similar events): Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup "
    'network for sandbox "6f": plugin type="multus-shim" failed (add): [red/thief/:web]: error adding container to '
    'network "web": attachment: {}'
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            refusals.other_namespace("blue/web", "red/thief"),
            Refusal("OtherNamespace", "blue/web"),
            id="other-namespace",
        ),
        pytest.param(refusals.no_attachment(), Refusal("NoAttachment", ""), id="no-attachment"),
        pytest.param(
            refusals.not_carried("blue/web", "blue/thief", "", "node-1"),
            Refusal("NotCarried", "blue/web"),
            id="not-carried",
        ),
        pytest.param("VPCAttachment blue/web is not ready", None, id="another-message"),
    ],
)
def test_a_refusal_is_recognised(message: str, expected: Refusal | None) -> None:
    assert refusal(AROUND.format(message)) == expected
