"""The half of the official client that no controller uses is not loaded, and can be."""

import subprocess
import sys

import pytest

UNUSED = {
    "requests",
    "requests_oauthlib",
    "oauthlib",
    "kubernetes.client",
    "kubernetes.config",
    "kubernetes.dynamic",
}


def loaded(program: str) -> set[str]:
    """The modules that a process has after that program."""
    argv = [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "module", ["galactic.kube.client", "galactic.node.__main__", "galactic.webhook.__main__"]
)
def test_no_module_of_the_other_half_is_loaded(module: str) -> None:
    modules = loaded(f"import {module}")
    assert "kubernetes.aio.client" in modules
    assert not modules & UNUSED


def test_the_package_itself_would_load_it() -> None:
    assert loaded("import kubernetes.aio.client") > UNUSED - {"kubernetes.dynamic"}


def test_the_other_half_can_be_imported_as_kopf_does() -> None:
    as_kopf = (
        "import kubernetes; import kubernetes.config; kubernetes.client.Configuration.get_default_copy()"
    )
    assert "kubernetes.client" in loaded(f"import galactic.kube.official; {as_kopf}")


def test_a_package_that_was_imported_before_stays() -> None:
    assert "kubernetes.client" in loaded(
        "import kubernetes, galactic.kube.official; kubernetes.client.ApiClient"
    )
