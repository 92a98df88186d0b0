"""The definitions: up to date, structural, and such that API servers take them."""

from pathlib import Path

import pytest
import yaml

from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.schema import KINDS, definition, main, rendered
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected

ROOT = Path(__file__).parents[3]


def walk(schema, path=""):
    yield path, schema
    for name, nested in (schema.get("properties") or {}).items():
        yield from walk(nested, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from walk(schema[name], f"{path}[]")


def schema_of(kind):
    return definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
class TestEvery:
    def test_file_is_up_to_date(self, kind):
        assert (ROOT / "crds" / f"{kind.KIND.lower()}.yaml").read_text() == rendered(kind), (
            "run `make generate`"
        )

    def test_every_field_has_a_type_and_a_description(self, kind):
        plain = {".apiVersion", ".kind", ".metadata"}
        for path, schema in walk(schema_of(kind)):
            assert "type" in schema, path
            if path and not path.endswith("[]") and path not in plain:
                assert schema.get("description"), path

    def test_nothing_that_a_server_or_kubectl_refuses(self, kind):
        text = rendered(kind)
        assert "anyOf" not in text
        assert "$ref" not in text
        status = schema_of(kind)["properties"]["status"]
        assert [path for path, schema in walk(status) if "default" in schema] == []

    def test_the_status_is_bounded(self, kind):
        status = schema_of(kind)["properties"]["status"]
        unbounded = [
            path for path, schema in walk(status) if schema["type"] == "array" and "maxItems" not in schema
        ]
        assert unbounded == []


def test_check_reports_drift_and_writes_nothing(tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    stale = tmp_path / "vpc.yaml"
    stale.write_text("old")
    assert main(["--check", str(tmp_path)]) == 1
    assert "vpc.yaml" in capsys.readouterr().err
    assert stale.read_text() == "old"


@pytest.mark.parametrize(
    ("kind", "spec", "reason"),
    [
        pytest.param(Vpc, {"networks": []}, "spec.networks", id="no-network"),
        pytest.param(Vpc, {"networks": ["10.0.0.0/8"] * 65}, "spec.networks", id="65-networks"),
        pytest.param(Vpc, {"networks": ["10.0.0.0/8"], "identifier": "4D2"}, "'4D2'", id="identifier"),
        pytest.param(Vpc, {}, "spec.networks: Field required", id="networks-missing"),
        pytest.param(VpcAttachment, {}, "spec.vpc: Field required", id="vpc-missing"),
        pytest.param(VpcAttachment, {"vpc": {"name": ""}}, "spec.vpc.name", id="vpc-nameless"),
        pytest.param(
            VpcAttachment,
            {"vpc": {"name": "v"}, "routes": [{"via": "10.0.0.1"}]},
            "spec.routes[0].destination",
            id="route-without-destination",
        ),
        pytest.param(NodeSegment, {}, "spec.prefix", id="prefix-missing"),
    ],
)
def test_models_refuse_by_field_and_value(kind, spec, reason):
    with pytest.raises(Rejected) as refusal:
        parse(kind, {"metadata": {"name": "a"}, "spec": spec})
    assert reason in str(refusal.value)


def test_examples_fit_the_models():
    kinds = {kind.KIND: kind for kind in KINDS}
    seen = set()
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] in kinds:
                parse(kinds[document["kind"]], document)
                seen.add(document["kind"])
    assert {"VPC", "VPCAttachment"} <= seen


def test_unknown_fields_are_ignored_as_the_api_server_prunes_them():
    vpc = parse(Vpc, {"metadata": {"name": "v"}, "spec": {"networks": ["10.0.0.0/8"], "colour": "blue"}})
    assert vpc.spec.networks == ("10.0.0.0/8",)
