"""The files of examples/router are what the router takes."""

from pathlib import Path

from galactic.router.ingress.admissions import AdmissionsFile
from galactic.router.rib.import_policy import Policy, Unlisted
from galactic.settings import RouterSettings, load

EXAMPLES = Path(__file__).parents[3] / "examples" / "router"


def test_the_admissions() -> None:
    policy = AdmissionsFile(EXAMPLES / "admissions.yaml").policy
    assert policy == Policy(Unlisted.FIRST, {0x4D2: frozenset({"east", "west"})})


def test_the_settings_name_the_same_files_as_the_unit() -> None:
    settings = load(RouterSettings, ["--config", str(EXAMPLES / "router.yaml")])
    unit = (EXAMPLES / "galactic-router.service").read_text()
    assert "ExecStart=galactic-router --config /etc/galactic/router.yaml\n" in unit
    assert not settings.kubernetes
    assert settings.admissions == Path("/etc/galactic/admissions.yaml")
