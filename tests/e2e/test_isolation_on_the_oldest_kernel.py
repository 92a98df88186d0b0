"""Tenants are kept apart on the oldest guest kernel as on the newest: the same stories, in a lab of its own."""

import pytest
from test_no_leak_into_the_main_table import default_route, test_unreachable  # noqa: F401
from test_tenants_cannot_forge_their_way import *  # noqa: F403 - each test and fixture, by its own name

from galactic_lab.builds.guest_kernels import PINNED, known
from galactic_lab.cluster import Lab


@pytest.fixture(scope="module")
def lab(oldest: Lab) -> Lab:
    """In place of the stories' lab."""
    assert oldest.state.linux == PINNED
    return oldest


def test_it_is_the_oldest(lab: Lab) -> None:
    source = known(PINNED)
    assert source
    assert lab.exec("kernel", ["uname", "-r"]).startswith(source.version.partition("-")[0])
