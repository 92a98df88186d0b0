"""Both images, built once for all tests."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from container import Container

from galactic_lab.images.store import Store
from release.image import Facts, facts

HERE = Path(__file__).parent
BUILDING_SECONDS = 5400
"""For the test that happens to build; the first time fetches and compiles everything."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(BUILDING_SECONDS))


@dataclass(frozen=True)
class Image:
    """``config`` is the OCI image's configuration."""

    root: Path
    config: dict[str, Any]

    def container(self, **given: Any) -> Container:
        environment = dict(variable.split("=", 1) for variable in self.config["Env"])
        return Container(self.root, environment, **given)


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    made = Store()
    with made.alone():
        made.tidy()
        yield made
        made.close()


def _image(store: Store, target: str) -> Image:
    name = store.build(target)
    described = json.loads(store.buildah("inspect", "--type", "image", name))
    return Image(store.mount(name), described["OCIv1"]["config"])


@pytest.fixture(scope="session")
def built_facts() -> Facts:
    """The image's labels, computed before the build."""
    return facts()


@pytest.fixture(scope="session")
def image(store, built_facts) -> Image:
    return _image(store, "image")


@pytest.fixture(scope="session")
def development(store) -> Image:
    return _image(store, "dev")
