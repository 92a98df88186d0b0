"""Manifests of Galactic's kinds in examples/ fit their models and the rules that the webhook has for them alone."""

from pathlib import Path

import pytest
import yaml

from galactic.crds.model import parse
from galactic.crds.schema import KINDS
from galactic.names import GROUP
from galactic.validation.gateways import parse_gateway
from galactic.validation.policies import policy

EXAMPLES = Path(__file__).parents[3] / "examples"
MANIFESTS = [
    pytest.param(
        manifest, id=f"{path.relative_to(EXAMPLES)}:{manifest['kind']}/{manifest['metadata']['name']}"
    )
    for path in sorted(EXAMPLES.rglob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
    if str((manifest or {}).get("apiVersion", "")).startswith(GROUP)
]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_of_the_examples(manifest):
    (kind,) = [kind for kind in KINDS if manifest["kind"] == kind.KIND]
    found = parse(kind, manifest)
    assert found.model_dump(by_alias=True, exclude_unset=True, mode="json")["spec"] == manifest["spec"]
    if manifest["kind"] == "VPCPolicy":
        policy(found.spec)
    if manifest["kind"] == "VPCGateway":
        parse_gateway(found, (), None)


def test_each_kind_of_users_has_an_example():
    assert {param.values[0]["kind"] for param in MANIFESTS} == {
        "VPC",
        "VPCAttachment",
        "VPCPolicy",
        "VPCGateway",
    }
