import pytest

from galactic.kube.memory import MemoryApi


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()
