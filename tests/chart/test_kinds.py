"""The chart brings the kinds as the models have them."""

from charting import Helm

from galactic.crds.schema import KINDS, definition


def test_the_kinds_are_those_of_the_models(helm: Helm) -> None:
    rendered = {
        manifest["spec"]["names"]["kind"]: manifest["spec"]
        for manifest in helm.objects()
        if manifest["kind"] == "CustomResourceDefinition"
    }
    assert rendered == {kind.KIND: definition(kind)["spec"] for kind in KINDS}
