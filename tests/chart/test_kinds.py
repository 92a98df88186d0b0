"""The kinds as an API server of each version can take them."""

import pytest
from charting import Helm

from galactic.crds.rules import for_server
from galactic.crds.schema import KINDS, definition


@pytest.mark.parametrize("minor", [20, 24, 25, 26, 27, 28, 29, 30, 37])
def test_the_chart_leaves_out_what_a_server_does_not_know(helm: Helm, minor: int) -> None:
    objects = helm.objects(version=f"1.{minor}.0")
    rendered = {
        thing["spec"]["names"]["kind"]: thing["spec"]
        for thing in objects
        if thing["kind"] == "CustomResourceDefinition"
    }
    assert rendered == {kind.KIND: for_server(definition(kind)["spec"], (1, minor)) for kind in KINDS}
